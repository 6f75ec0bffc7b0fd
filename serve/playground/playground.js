// The playground: one or two requests of the same prompt with budgets of their own, streamed side by side.

/** Numbers of tokens that a slider can be set to, none above `context`: every 8 up to 128, then eight to a doubling. */
export function notches(context) {
  const found = [];
  // 31 - clz32 is the whole part of the logarithm to base 2.
  for (let tokens = 0; tokens <= context; tokens += Math.max(8, 2 ** (31 - Math.clz32(tokens)) / 8)) found.push(tokens);
  return found;
}

/** The body of the request for one side. Counts are tokens; `max` is Infinity without a cap. */
export function requestBody({ model, prompt, temperature, answer, min, max, waits, string }) {
  const forcing = { min_tokens: min, num_ignore: waits, max_answer_tokens: answer };
  if (max < Infinity) forcing.max_tokens = max;
  if (string && string !== "Wait") forcing.ignore_str = string;
  return { model, messages: [{ role: "user", content: prompt }], temperature, stream: true, budget_forcing: forcing };
}

/** A command for a POSIX shell that sends `body`; the key is the shell's. */
export function curl(url, body, hasKey) {
  const quoted = JSON.stringify(body).replaceAll("'", "'\\''");
  const key = hasKey ? ` -H "Authorization: Bearer $KEY"` : "";
  return `curl -N ${url} -H 'Content-Type: application/json'${key} \\\n  -d '${quoted}'`;
}

/** The stream ended before the server had said that it was complete. */
class BrokenOff extends Error {
  constructor() { super("The stream broke off: the server or the way to it was lost. What stands here is not complete."); }
}

/** The JSON values of server-sent events up to [DONE], from pieces of text that may end anywhere. */
export async function* events(pieces) {
  let [rest, done] = ["", false];
  for await (const piece of pieces) {
    const lines = (rest + piece).split("\n\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith(":")) continue; // a comment: the server is still at work
      const data = line.replace(/^data: /, "");
      if (data === "[DONE]") done = true; else yield JSON.parse(data);
    }
  }
  if (!done) throw new BrokenOff();
}

/** Text of a response body, characters of several bytes kept whole. */
async function* textOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  const read = () => reader.read().catch(() => { throw new BrokenOff(); });
  for (let piece; !(piece = await read()).done; ) yield piece.value;
}

/** One side of the comparison: its sliders, its texts and its counters. */
class Side {
  /** With a cap of `max` tokens, as far as the sliders reach until the server has told the model's context. */
  constructor(name, max, onMove) {
    this.onMove = onMove;
    this.element = document.getElementById("side").content.firstElementChild.cloneNode(true);
    this.find("h2").textContent = `Budget ${name}`;
    this.find(".thinking").setAttribute("aria-label", `Thinking with budget ${name}`);
    this.find(".answer").setAttribute("aria-label", `Answer with budget ${name}`);
    this.offer(max, { min: 0, max });
    for (const slider of this.element.querySelectorAll("input[type=range]")) {
      slider.addEventListener("input", () => this.settle(slider));
    }
    this.find(".string").addEventListener("input", () => this.onMove());
    this.forced = []; // [first thinking token, number] of every piece of thinking that was forced
    this.thought = 0;
    this.settle(this.find(".max"));
  }

  find(selector) { return this.element.querySelector(selector); }

  /** Let the sliders reach to `context`; they stay where they are, or as near below as they can. */
  offer(context, { min, max } = this.budget()) {
    this.notches = notches(context);
    const last = this.notches.length - 1;
    const at = (tokens) => tokens === Infinity ? last + 1 : this.notches.findLastIndex((notch) => notch <= tokens);
    // One notch beyond the last number is no cap at all.
    for (const [selector, end, tokens] of [[".min", last, min], [".max", last + 1, max]]) {
      this.find(selector).max = end;
      this.find(selector).value = at(tokens);
    }
  }

  /** After `moved` was moved: the minimum stays below the maximum, and the numbers are shown. */
  settle(moved) {
    const [min, max] = [this.find(".min"), this.find(".max")];
    if (Number(min.value) > Number(max.value)) {
      if (moved === min) max.value = min.value; else min.value = max.value;
    }
    for (const slider of this.element.querySelectorAll("input[type=range]")) {
      const value = slider.matches(".waits") ? slider.value : this.tokens(slider);
      const text = value === Infinity ? "any number of" : value;
      slider.parentElement.querySelector(".shown").textContent = text;
      slider.setAttribute("aria-valuetext", text);
    }
    this.onMove();
  }

  /** What a slider of tokens is set to. */
  tokens(slider) { return this.notches[slider.value] ?? Infinity; }

  budget() {
    const [min, max] = [".min", ".max"].map((selector) => this.tokens(this.find(selector)));
    return { min, max, waits: Number(this.find(".waits").value), string: this.find(".string").value };
  }

  /** Thinking tokens that the meter has to hold. */
  get reach() {
    const { min, max } = this.budget();
    return Math.max(this.thought, min, max < Infinity ? max : 0, 1);
  }

  /** Draw the meter to a scale of `reach` tokens. */
  draw(reach) {
    const { min, max } = this.budget();
    const part = (kind, start, length) => {
      const bar = document.createElement("span");
      bar.className = kind;
      bar.style.left = `${100 * start / reach}%`;
      if (length !== null) bar.style.width = `${100 * length / reach}%`;
      return bar;
    };
    const meter = this.find(".meter");
    const bars = [part("cap", 0, max < Infinity ? max : reach), part("said", 0, this.thought)];
    bars.push(...this.forced.map(([start, length]) => part("forcing", start, length)));
    if (min) bars.push(part("least", min, null));
    meter.replaceChildren(...bars);
    const most = max < Infinity ? `at most ${max}` : "without a cap";
    meter.setAttribute("aria-label", `${this.thought} thinking tokens; at least ${min}, ${most}`);
  }

  say(state, running) {
    this.find(".state").textContent = state;
    this.element.classList.toggle("running", running);
  }

  clear() {
    [this.forced, this.thought] = [[], 0];
    this.say("waiting", true);
    this.mark(".thinking");
    for (const text of this.element.querySelectorAll(".text")) text.replaceChildren();
    for (const name of ["thinking", "forced", "answer", "rounds"]) this.count(name, 0);
    for (const name of ["ended", "seconds"]) this.count(name, "–");
    this.find(".problem").hidden = true;
  }

  count(name, value) { this.find(`[data-count=${name}]`).textContent = value; }

  problem(message) {
    this.find(".problem").textContent = message;
    this.find(".problem").hidden = false;
  }

  /** Show where text is being added. */
  mark(pane) {
    for (const text of this.element.querySelectorAll(".text")) text.classList.toggle("now", text.matches(pane));
  }

  /** Add a piece of the completion; what belongs to neither text is shown where the thinking ends. */
  write({ text, forced, part }) {
    const target = part === "answer" ? ".answer" : ".thinking";
    this.say(part === "answer" ? "answering" : "thinking", true);
    this.mark(target);
    const pane = this.find(target);
    const kind = [forced ? "forced" : "sampled", part].join(" ");
    const atEnd = pane.scrollHeight - pane.scrollTop - pane.clientHeight < 8;
    if (pane.lastElementChild?.className !== kind) {
      const span = pane.appendChild(document.createElement("span"));
      span.className = kind;
      if (forced) span.title = "written by the budget, not by the model";
    }
    // A line end that was forced could not be seen otherwise.
    pane.lastElementChild.append(forced && text === "\n" ? "↵\n" : text);
    if (atEnd) pane.scrollTop = pane.scrollHeight;
  }

  show(chunk) {
    if (chunk.error) throw new Error(chunk.error.message);
    const report = chunk.budget_forcing ?? {};
    const segments = report.segments ?? [];
    for (const segment of segments) this.write(segment);
    this.trace(segments, report.thinking_tokens ?? this.thought);
    const counts = { thinking: "thinking_tokens", forced: "forced_tokens", answer: "answer_tokens", rounds: "rounds", ended: "ended_by" };
    for (const [name, key] of Object.entries(counts)) if (key in report) this.count(name, report[key]);
    if (report.unmet) this.problem(`The minimum was not met: ${report.unmet}.`);
    this.onMove();
  }

  /** Keep where the thinking was forced on; what is forced without a pause is one place. Pieces of one chunk share its
      tokens by the length of their texts. */
  trace(segments, thought) {
    const pieces = segments.filter(({ part }) => part === "thinking");
    const each = (thought - this.thought) / Math.max(1, pieces.reduce((sum, { text }) => sum + text.length, 0));
    let start = this.thought;
    for (const { text, forced } of pieces) {
      const length = text.length * each;
      const last = this.forced.at(-1);
      if (forced && last && Math.abs(last[0] + last[1] - start) < 1e-6) last[1] += length;
      else if (forced) this.forced.push([start, length]);
      start += length;
    }
    this.thought = thought;
  }
}

class Playground {
  constructor() {
    this.sides = [];
    this.contexts = {}; // model -> tokens
    this.sides = [new Side("A", 64, () => this.refresh()), new Side("B", 256, () => this.refresh())];
    this.running = null;
    this.field("sides").append(...this.sides.map((side) => side.element));
    this.field("compare").addEventListener("change", () => this.arrange());
    this.field("stop").addEventListener("click", () => this.running?.abort());
    this.field("key").addEventListener("change", () => this.listModels());
    this.field("model").addEventListener("change", () => this.fit());
    this.field("form").addEventListener("input", () => this.refresh());
    this.field("form").addEventListener("submit", (event) => { event.preventDefault(); this.run(); });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.field("form").requestSubmit();
      if (event.key === "Escape") this.running?.abort();
    });
    this.arrange();
    this.listModels();
  }

  field(id) { return document.getElementById(id); }

  get compares() { return this.field("compare").checked; }

  arrange() {
    this.sides[1].element.hidden = !this.compares;
    this.field("sides").classList.toggle("two", this.compares);
    this.refresh();
  }

  get shown() { return this.compares ? this.sides : this.sides.slice(0, 1); }

  /** Draw what follows from the fields and from what was thought: meters to one scale, and the commands. */
  refresh() {
    if (!this.sides.length) return; // the sides are being made
    const reach = Math.max(...this.shown.map((side) => side.reach));
    const url = new URL("v1/chat/completions", location.href).href;
    for (const side of this.shown) {
      side.draw(reach);
      side.find(".curl").textContent = curl(url, this.body(side), Boolean(this.field("key").value.trim()));
    }
  }

  body(side) {
    const number = (id) => Number(this.field(id).value);
    const shared = { model: this.field("model").value, prompt: this.field("prompt").value };
    return requestBody({ ...shared, temperature: number("temperature"), answer: number("answer"), ...side.budget() });
  }

  say(text) { this.field("status").textContent = text; }

  headers() {
    const key = this.field("key").value.trim();
    return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  }

  async listModels() {
    try {
      const listed = await this.ask("v1/models", {});
      const models = (await listed.json()).data;
      this.contexts = Object.fromEntries(models.map((model) => [model.id, model.max_model_len]));
      this.field("model").replaceChildren(...models.map((model) => new Option(model.id)));
      this.say("");
      this.fit();
    } catch (problem) { this.say(problem.message); }
  }

  /** Let the budgets reach as far as the model's context does, if its engine has told it yet. */
  fit() {
    const context = this.contexts[this.field("model").value];
    for (const side of this.sides) {
      if (context) side.offer(context);
      side.settle(side.find(".max"));
    }
  }

  async ask(path, options) {
    const response = await fetch(path, { headers: this.headers(), ...options });
    if (response.ok) return response;
    const wait = response.headers.get("Retry-After");
    const { error } = await response.json().catch(() => ({}));
    throw new Error(`${error?.message ?? response.statusText}${wait ? ` (in ${wait} s)` : ""}`);
  }

  async run() {
    this.running?.abort();
    const running = this.running = new AbortController();
    const sides = this.shown;
    this.field("stop").disabled = false;
    this.say("Running…");
    const results = await Promise.all(sides.map((side) => this.fill(side, running.signal)));
    if (this.running !== running) return; // a later run has taken over
    this.running = null;
    this.field("stop").disabled = true;
    this.say(running.signal.aborted ? "Stopped." : results.every(Boolean) ? "Done." : "Not finished.");
  }

  /** Ask with the budget of `side`; whether the answer was complete. */
  async fill(side, signal) {
    side.clear();
    const started = performance.now();
    const body = this.body(side);
    try {
      const response = await this.ask("v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal });
      for await (const chunk of events(textOf(response.body))) {
        side.show(chunk);
        side.count("seconds", ((performance.now() - started) / 1000).toFixed(1));
      }
      side.say("done", false);
      return true;
    } catch (problem) {
      const broken = problem instanceof BrokenOff;
      side.say(signal.aborted ? "stopped" : broken ? "broken off" : "failed", false);
      if (!signal.aborted) side.problem(problem.message);
      return false;
    }
  }
}

new Playground();
