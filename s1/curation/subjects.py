"""The subjects of a question: two-digit codes of the Mathematics Subject Classification (MSC 2020), which reach from
logic to physics, biology and economics (paper, section 2.2), each with the words that tell it from the others.
"""

from __future__ import annotations

SUBJECTS: dict[str, tuple[str, str]] = {
    "03": ("Mathematical logic and foundations", "sets, proofs, models, computability, truth, puzzles of logic"),
    "05": ("Combinatorics", "counting, arrangements, permutations, graphs, colourings, partitions"),
    "06": ("Order and lattices", "partial orders, lattices, Boolean algebras, ordered groups"),
    "08": ("General algebraic systems", "universal algebra, varieties, terms and identities"),
    "11": ("Number theory", "integers, divisibility, primes, remainders, digits, Diophantine equations"),
    "12": ("Field theory and polynomials", "roots and coefficients of polynomials, factorisation, field extensions"),
    "13": ("Commutative algebra", "ideals, modules, Noetherian and polynomial rings"),
    "14": ("Algebraic geometry", "varieties, curves and surfaces given by polynomials, schemes"),
    "15": ("Linear algebra and matrices", "matrices, determinants, vectors, eigenvalues, linear equations"),
    "16": ("Associative rings and algebras", "rings without commutativity, modules, representations of algebras"),
    "17": ("Nonassociative rings and algebras", "Lie algebras, Jordan algebras"),
    "18": ("Category theory and homological algebra", "functors, natural transformations, derived categories"),
    "19": ("K-theory", "Grothendieck groups, vector bundles up to stable equivalence"),
    "20": ("Group theory", "groups, subgroups, orders of elements, symmetries, permutations as a group"),
    "22": ("Topological and Lie groups", "continuous groups, Haar measure, representations of Lie groups"),
    "26": ("Real functions", "inequalities, derivatives, integrals, limits, continuity and extrema of real functions"),
    "28": ("Measure and integration", "measures, Lebesgue integral, fractals as sets"),
    "30": ("Functions of a complex variable", "complex numbers, analytic functions, residues, conformal maps"),
    "31": ("Potential theory", "harmonic functions, Laplace equation as a potential"),
    "32": ("Several complex variables", "holomorphic functions of many variables, analytic spaces"),
    "33": ("Special functions", "gamma, Bessel, hypergeometric, trigonometric and exponential functions"),
    "34": ("Ordinary differential equations", "rates of change, initial values, stability of solutions"),
    "35": ("Partial differential equations", "heat, wave and Schroedinger equations, boundary values"),
    "37": ("Dynamical systems", "iteration, orbits, chaos, ergodic theory"),
    "39": ("Difference and functional equations", "recurrences, find all functions that satisfy an equation"),
    "40": ("Sequences and series", "convergence, sums of infinite series, terms of a sequence"),
    "41": ("Approximations and expansions", "interpolation, asymptotics, best approximation"),
    "42": ("Harmonic analysis", "Fourier series and transforms, wavelets"),
    "43": ("Abstract harmonic analysis", "Fourier analysis on groups"),
    "44": ("Integral transforms", "Laplace transform, convolution, operational calculus"),
    "45": ("Integral equations", "Volterra and Fredholm equations"),
    "46": ("Functional analysis", "Banach and Hilbert spaces, norms, distributions"),
    "47": ("Operator theory", "spectra, compact and self-adjoint operators"),
    "49": ("Calculus of variations and optimal control", "extremals of functionals, shortest paths, control"),
    "51": ("Geometry", "triangles, circles, angles, lengths, areas, coordinates, solids"),
    "52": ("Convex and discrete geometry", "polytopes, packings, lattice points, tilings"),
    "53": ("Differential geometry", "curvature, surfaces, manifolds with a metric"),
    "54": ("General topology", "open sets, compactness, connectedness"),
    "55": ("Algebraic topology", "homology, homotopy, fundamental groups"),
    "57": ("Manifolds and cell complexes", "knots, surfaces, triangulations"),
    "58": ("Global analysis", "analysis on manifolds, index theorems"),
    "60": ("Probability", "chance, dice, cards, random walks, expected values, stochastic processes"),
    "62": ("Statistics", "samples, means, estimation, tests of hypotheses, regression"),
    "65": ("Numerical analysis", "algorithms for equations and integrals, rounding errors, iteration methods"),
    "68": ("Computer science", "programs, algorithms, data structures, complexity, automata, cryptic word puzzles"),
    "70": ("Mechanics of particles and systems", "motion, forces, velocity, energy, momentum, rotation, gravity"),
    "74": ("Mechanics of deformable solids", "stress, strain, elasticity, beams"),
    "76": ("Fluid mechanics", "flow, pressure, viscosity, buoyancy"),
    "78": ("Optics and electromagnetic theory", "light, lenses, electric and magnetic fields, circuits, charge"),
    "80": ("Classical thermodynamics and heat", "temperature, heat, gases, entropy, engines"),
    "81": ("Quantum theory", "wave functions, spin, particles, energy levels, photons"),
    "82": ("Statistical mechanics and matter", "atoms, crystals, phase changes, chemistry of substances, reactions"),
    "83": ("Relativity and gravitation", "space-time, black holes, moving clocks"),
    "85": ("Astronomy and astrophysics", "stars, planets, orbits, telescopes, galaxies"),
    "86": ("Geophysics", "earth, climate, oceans, atmosphere, earthquakes, maps"),
    "90": ("Operations research", "optimisation, schedules, linear programming, networks"),
    "91": ("Games, economics, social sciences", "strategies, prices, interest, money, votes, reading and arguments"),
    "92": ("Biology and other natural sciences", "cells, genes, medicine, molecules, organic chemistry, populations"),
    "93": ("Systems and control", "feedback, stability of controlled systems, signals"),
    "94": ("Information and communication", "codes, ciphers, entropy of messages, digital circuits"),
    "97": ("Mathematics education", "arithmetic for school, word problems of everyday life"),
}


def label(code: str) -> str:
    """How a subject stands in the column `domain`."""
    return f"{code} {SUBJECTS[code][0]}"


def descriptions() -> list[str]:
    """What an encoder compares questions with, in the order of `SUBJECTS`."""
    return [f"{title}: {words}" for title, words in SUBJECTS.values()]
