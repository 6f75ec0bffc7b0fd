// The playground: one or two requests of the same prompt with budgets of their own, streamed side by side.

const NO_CAP = 520; // the last notch of the slider

/** The body of the request for one side. Counts are tokens. */
export function requestBody({ model, prompt, temperature, answer, min, max, waits }) {
  const forcing = { min_tokens: min, num_ignore: waits, max_answer_tokens: answer };
  if (max < NO_CAP) forcing.max_tokens = max;
  return { model, messages: [{ role: "user", content: prompt }], temperature, stream: true, budget_forcing: forcing };
}

/** The JSON values of server-sent events, from pieces of text that may end anywhere. */
export async function* events(pieces) {
  let rest = "";
  for await (const piece of pieces) {
    const lines = (rest + piece).split("\n\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

/** Text of a response body, characters of several bytes kept whole. */
async function* textOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let read; !(read = await reader.read()).done; ) yield read.value;
}

/** One side of the comparison: its sliders, its texts and its counters. */
class Side {
  constructor(name, max) {
    this.element = document.getElementById("side").content.firstElementChild.cloneNode(true);
    this.find("h2").textContent = `Budget ${name}`;
    this.find(".thinking").setAttribute("aria-label", `Thinking with budget ${name}`);
    this.find(".answer").setAttribute("aria-label", `Answer with budget ${name}`);
    this.find(".max").value = max;
    for (const slider of this.element.querySelectorAll("input[type=range]")) {
      slider.addEventListener("input", () => this.settle(slider));
    }
    this.settle(this.find(".max"));
  }

  find(selector) { return this.element.querySelector(selector); }

  /** After `moved` was moved: the minimum stays below the maximum, and the numbers are shown. */
  settle(moved) {
    const [min, max] = [this.find(".min"), this.find(".max")];
    if (Number(min.value) > Number(max.value)) {
      if (moved === min) max.value = min.value; else min.value = max.value;
    }
    for (const slider of this.element.querySelectorAll("input[type=range]")) {
      const text = slider === max && Number(max.value) >= NO_CAP ? "any number of" : slider.value;
      slider.parentElement.querySelector(".shown").textContent = text;
      slider.setAttribute("aria-valuetext", text);
    }
  }

  budget() {
    const value = (selector) => Number(this.find(selector).value);
    return { min: value(".min"), max: value(".max"), waits: value(".waits") };
  }

  clear() {
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

  /** Add a piece of the completion; what belongs to neither text is shown where the thinking ends. */
  write({ text, forced, part }) {
    const pane = this.find(part === "answer" ? ".answer" : ".thinking");
    const kind = [forced ? "forced" : "sampled", part].join(" ");
    const atEnd = pane.scrollHeight - pane.scrollTop - pane.clientHeight < 8;
    if (pane.lastElementChild?.className !== kind) {
      const span = pane.appendChild(document.createElement("span"));
      span.className = kind;
      if (forced) span.title = "written by the budget, not by the model";
    }
    pane.lastElementChild.append(text);
    if (atEnd) pane.scrollTop = pane.scrollHeight;
  }

  show(chunk) {
    if (chunk.error) throw new Error(chunk.error.message);
    const report = chunk.budget_forcing ?? {};
    for (const segment of report.segments ?? []) this.write(segment);
    const counts = { thinking: "thinking_tokens", forced: "forced_tokens", answer: "answer_tokens", rounds: "rounds", ended: "ended_by" };
    for (const [name, key] of Object.entries(counts)) if (key in report) this.count(name, report[key]);
    if (report.unmet) this.problem(`The minimum was not met: ${report.unmet}.`);
  }
}

class Playground {
  constructor() {
    this.sides = [new Side("A", 64), new Side("B", 256)];
    this.running = null;
    this.field("sides").append(...this.sides.map((side) => side.element));
    this.field("compare").addEventListener("change", () => this.arrange());
    this.field("stop").addEventListener("click", () => this.running?.abort());
    this.field("key").addEventListener("change", () => this.listModels());
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
  }

  say(text) { this.field("status").textContent = text; }

  headers() {
    const key = this.field("key").value.trim();
    return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  }

  async listModels() {
    try {
      const listed = await this.ask("v1/models", {});
      const options = (await listed.json()).data.map((model) => new Option(model.id));
      this.field("model").replaceChildren(...options);
      this.say("");
    } catch (problem) { this.say(problem.message); }
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
    const sides = this.compares ? this.sides : this.sides.slice(0, 1);
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
    const number = (id) => Number(this.field(id).value);
    const shared = { model: this.field("model").value, prompt: this.field("prompt").value };
    const body = requestBody({ ...shared, temperature: number("temperature"), answer: number("answer"), ...side.budget() });
    try {
      const response = await this.ask("v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal });
      for await (const chunk of events(textOf(response.body))) {
        side.show(chunk);
        side.count("seconds", ((performance.now() - started) / 1000).toFixed(1));
      }
      return true;
    } catch (problem) {
      if (!signal.aborted) side.problem(problem.message);
      return false;
    }
  }
}

new Playground();
