"""Draws the three charts of README.md from a run's results and scores, writes all numbers as table.md beside them, and
prints the table of README.md.

    python charts.py --results results/MACHINE/FORMAT
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402

# The same file each time.
matplotlib.rcParams["svg.hashsalt"] = "onegrid"
METADATA = {"Date": None}
COLOURS = {
    "none": "#6b7280",
    "position": "#d97706",
    "position-truncate": "#b45309",
    "position-fitted": "#f59e0b",
    "automaton": "#2563eb",
}
TOKENIZERS = {"qwen3": "#2563eb", "llama": "#d97706"}
DASHES = {"none": "-", "position": "--", "position-truncate": "-.", "automaton": ":"}


def save(figure, path):
    figure.tight_layout()
    beside = path.with_suffix(".new.svg")
    figure.savefig(beside, metadata=METADATA)
    beside.rename(path)
    pyplot.close(figure)


def in_words(temperature):
    return "greedy" if temperature == 0 else f"temperature {temperature:g}"


def speeds(cells, path):
    """Molecules per second over none, compiling included, with the valid share beside each bar."""
    temperatures = sorted({cell["temperature"] for cell in cells})
    figure, axes = pyplot.subplots(1, len(temperatures), figsize=(11, 6), sharex=True, squeeze=False)
    for axis, temperature in zip(axes[0], temperatures):
        labels, row = [], 0
        for cell in (cell for cell in cells if cell["temperature"] == temperature):
            for method in cell["methods"]:
                name, ratio = method["method"], method["speedup_with_compile"]
                value = ratio["median"] if ratio else 1.0
                error = [[value - ratio["low"]], [ratio["high"] - value]] if ratio else None
                axis.barh(row, value, xerr=error, color=COLOURS[name], height=0.8, ecolor="#111827")
                verdicts = method["verdicts"]
                share = 100 * verdicts["valid"] / verdicts["texts"]
                axis.text(0.02, row, f"{share:.1f}% valid", va="center", color="white", fontsize=8)
                labels.append((row, f"{cell['model']}: {name}"))
                row += 1
            row += 0.6
        axis.set_yticks([at for at, _ in labels], [text for _, text in labels], fontsize=8)
        axis.invert_yaxis()
        axis.axvline(1, color="#111827", linewidth=0.8)
        axis.set_title(in_words(temperature))
        axis.set_xlabel("molecules per second over none, with compiling")
    save(figure, path)


def drift(scores, path):
    """Tokens of a number, by format and tokenizer."""
    formats = sorted({one["format"] for one in scores["data"]})
    figure, axes = pyplot.subplots(1, len(formats), figsize=(11, 3.6), sharey=True, squeeze=False)
    for axis, form in zip(axes[0], formats):
        sets = [one for one in scores["data"] if one["format"] == form]
        for index, one in enumerate(sets):
            total = sum(one["numbers"].values())
            at = [int(tokens) + 0.4 * (index - (len(sets) - 1) / 2) for tokens in one["numbers"]]
            shares = [100 * count / total for count in one["numbers"].values()]
            label = f"{one['tokenizer']}'s tokenizer"
            axis.bar(at, shares, width=0.4, color=TOKENIZERS[one["tokenizer"]], label=label)
            for x, y in zip(at, shares):
                axis.text(x, y, f"{y:.1f}", ha="center", va="bottom", fontsize=8)
        axis.set_title(f"numbers: {form}")
        axis.set_xticks(range(3, 9))
        axis.set_xlabel("tokens of a number")
    axes[0][-1].legend(frameon=False)
    axes[0][0].set_ylabel("share of the data's numbers, %")
    save(figure, path)


def coverage(scores, path):
    """COV-R and COV-P over the threshold, at temperature 1 or what there is."""
    temperature = max(cell["temperature"] for cell in scores["cells"])
    cells = [cell for cell in scores["cells"] if cell["temperature"] == temperature]
    figure, axes = pyplot.subplots(2, len(cells), figsize=(12, 6), sharex=True, sharey=True, squeeze=False)
    for column, cell in enumerate(cells):
        for row, key in enumerate(("cov_r", "cov_p")):
            axis = axes[row][column]
            for method in cell["methods"]:
                name = method["method"]
                if name in DASHES and method["geometry"]:
                    values = [100 * share for share in method["geometry"][key]]
                    style = {"linestyle": DASHES[name], "color": COLOURS[name], "linewidth": 1.8}
                    axis.plot(scores["thresholds"], values, label=name, **style)
            if scores["rdkit"]:
                values = [100 * share for share in scores["rdkit"][key]]
                axis.plot(scores["thresholds"], values, color="#9ca3af", label="RDKit itself", linewidth=1)
            axis.grid(alpha=0.3)
            if row == 0:
                axis.set_title(f"{cell['model']}, {in_words(temperature)}", fontsize=10)
            else:
                axis.set_xlabel("threshold, angstrom")
        axes[0][0].set_ylabel("COV-R, %")
        axes[1][0].set_ylabel("COV-P, %")
    axes[0][0].legend(frameon=False, fontsize=8)
    save(figure, path)


def table(cells, scores):
    """Lines of Markdown: every model, temperature and method with its speed, validity, junk and geometry."""
    yield (
        "| model | method | valid | passes | letters in a point | more digits | other number | per molecule | over none "
        "| with compiling | forced, gathered | read | probability of forced | median RMSD | median MAT-R | COV-R at 0.5 |"
    )
    yield "|---|---|" + "--:|" * 14
    at = scores["thresholds"].index(0.5)
    for cell, scored in zip(cells, scores["cells"], strict=True):
        for method, its in zip(cell["methods"], scored["methods"], strict=True):
            texts, junk = method["verdicts"]["texts"], method["verdicts"]["junk"]
            counts = method["guided"]
            tokens = sum(counts.values())
            rounds = len(method["seconds"]) / -(-texts // cell["batch"])
            shape, forced = its["geometry"], method["forced"]
            yield row(
                f"{cell['model']}, {in_words(cell['temperature'])}",
                method["method"],
                percent(method["verdicts"]["valid"], texts),
                percent(its["passes"], texts),
                percent(junk["letters"], junk["points"], 2),
                percent(junk["more_digits"], junk["coordinates"], 2),
                percent(junk["other_number"], junk["coordinates"], 2),
                f"{method['molecule_ms']['median']:.2f} ms, {method['tokens'] / texts:.0f} tokens",
                interval(method["speedup"]),
                interval(method["speedup_with_compile"]),
                f"{100 * counts['forced'] / tokens:.0f}%, {100 * counts['gathered'] / tokens:.0f}%",
                f"{method['bytes'] / rounds / texts / 1e6:.1f} MB",
                f"{100 * forced['mean']:.1f}%" if forced["tokens"] else "",
                f"{shape['median_best_rmsd']:.3f}" if shape else "",
                f"{shape['median_mat_r']:.3f}" if shape else "",
                f"{100 * shape['cov_r'][at]:.1f}%" if shape else "",
            )


def row(*cells):
    return "| " + " | ".join(cells) + " |"


def percent(part, whole, digits=1):
    return f"{100 * part / max(1, whole):.{digits}f}%"


def interval(ratio):
    return f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]" if ratio else ""


def summary(cells):
    """Lines of Markdown: a row for each model and temperature, the fitted placeholder left out, which is the plan's."""
    names = [method["method"] for method in cells[0]["methods"] if method["method"] != "position-fitted"]
    heads = [f"valid: {name}" for name in names] + [f"speed: {name}" for name in names[1:]]
    yield row("model", *heads)
    yield "|---|" + "--:|" * len(heads)
    for cell in cells:
        methods = [method for method in cell["methods"] if method["method"] in names]
        yield row(
            f"{cell['model']}, {in_words(cell['temperature'])}",
            *[percent(method["verdicts"]["valid"], method["verdicts"]["texts"]) for method in methods],
            *[interval(method["speedup_with_compile"]) for method in methods[1:]],
        )


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--results", type=Path, required=True)
    options = arguments.parse_args()
    result = json.loads((options.results / "molecules.json").read_text())
    scores = json.loads((options.results / "scores.json").read_text())
    cells = [cell["result"] for cell in result["cells"] if cell["outcome"] == "measured"]
    speeds(cells, options.results / "speed.svg")
    drift(scores, options.results / "tokens.svg")
    coverage(scores, options.results / "coverage.svg")
    beside = options.results / "table.new"
    beside.write_text("\n".join(table(cells, scores)) + "\n")
    beside.rename(options.results / "table.md")
    print("\n".join(summary(cells)))


if __name__ == "__main__":
    main()
