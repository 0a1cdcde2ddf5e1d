"""``medseg``: the runner of the bundles on the command line; each verb is a few lines on top of the package."""

from __future__ import annotations

import argparse
import atexit
import json
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg_monai import __version__
from medseg_monai.errors import explain, is_users_mistake
from medseg_monai.files import as_utf8
from medseg_monai.streams import set_up_logging

if TYPE_CHECKING:
    from medseg_monai.report import CaseReport

__all__ = ["main", "run"]

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


def _answer(args: argparse.Namespace, content: Any, text: str) -> None:
    args.answers.write(as_utf8(json.dumps(content, indent=2, default=str) if args.json else text) + "\n")


def _parse_value(text: str) -> Any:
    """The value of a text: True, False and None as in Python, otherwise JSON, otherwise the text itself."""
    python = {"True": True, "False": False, "None": None}
    if text in python:
        return python[text]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _overrides(args: argparse.Namespace, **named: Any) -> dict[str, Any]:
    from medseg_monai.bundle.loader import check_values

    values = {key: value for key, value in named.items() if value is not None}
    if not args.allow_expressions:
        check_values(values, "option")
    for pair in args.set or []:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise ValueError(f"--set {pair}: expected key=value.")
        values[key] = _parse_value(text)
        if not args.allow_expressions:
            check_values({key: values[key]}, "--set")
    return values


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


def _folder_overrides(args: argparse.Namespace, **named: Any) -> dict[str, Any]:
    paths = {key: _absolute(getattr(args, key)) for key in ("dataset_dir", "datalist", "output_dir")}
    return _overrides(args, **paths, **named)


def _weights(checkpoint: str | None) -> str | None:
    """Absolute path of weights; weights in MLflow's registry are fetched first."""
    from medseg_monai.bundle.model_registry import fetch_weights, is_registered

    if checkpoint is not None and is_registered(checkpoint):
        return str(fetch_weights(checkpoint))
    return _absolute(checkpoint)


def _list(args: argparse.Namespace) -> int:
    from medseg_monai.bundle import find_bundle, list_bundles, read_metadata
    from medseg_monai.report import format_table

    bundles = []
    for name in list_bundles():
        metadata = read_metadata(name)
        has_weights = (find_bundle(name) / "models" / "model.pt").is_file()
        bundles.append({"name": name, "version": metadata["version"], "task": metadata["task"], "weights": has_weights})
    rows = [[b["name"], b["version"], "yes" if b["weights"] else "no", b["task"]] for b in bundles]
    _answer(args, bundles, format_table(["bundle", "version", "weights", "task"], rows))
    return EXIT_OK


def _info(args: argparse.Namespace) -> int:
    from medseg_monai.bundle import find_bundle, flat_keys, merged_config, read_metadata

    root = find_bundle(args.bundle)
    keys = {config: flat_keys(merged_config(root, [config])) for config in ("train", "inference")}
    model = root / "models" / "model.pt"
    content = {"root": str(root), "weights": model.is_file(), "metadata": read_metadata(root), "keys": keys}
    metadata = read_metadata(root)
    lines = [f"{root.name} {metadata['version']}: {metadata['description']}", f"folder: {root}"]
    lines.append(f"weights: {model if model.is_file() else 'none; train, or give --checkpoint FILE'}")
    for config, values in keys.items():
        lines.append(f"keys of {config}.json (change them with --set key=value):")
        lines += [f"  {key} = {json.dumps(value)}" for key, value in values.items()]
    _answer(args, content, "\n".join(lines))
    return EXIT_OK


def _data(args: argparse.Namespace) -> int:
    from medseg_monai.data import write_datalist
    from medseg_monai.datasets import DATASETS

    if args.dataset not in DATASETS:
        raise ValueError(f"{args.dataset}: no such data set; there are {', '.join(DATASETS.names)}.")
    output = Path(args.output).absolute()
    derived = output.with_name(f"{output.name.removesuffix('.json')}_derived")  # of this list alone
    datalist = DATASETS[args.dataset](
        args.folder, derived=derived, validation_fraction=args.validation_fraction, seed=args.seed
    )
    write_datalist(datalist, args.output)
    _answer_counts(args, datalist)
    return EXIT_OK


def _combine(args: argparse.Namespace) -> int:
    from medseg_monai.data import combine, load_sections, write_datalist
    from medseg_monai.files import refuse_given

    refuse_given([args.output], args.datalists, "name another file")
    datalist = combine([load_sections(path) for path in args.datalists], split=args.split, seed=args.seed)
    origin = {"split": args.split, "seed": args.seed} if args.split else {}
    write_datalist({**origin, **datalist}, args.output)
    _answer_counts(args, datalist)
    return EXIT_OK


def _answer_counts(args: argparse.Namespace, datalist: Mapping[str, Sequence[Any]]) -> None:
    counts = {section: len(items) for section, items in datalist.items()}
    text = ", ".join(f"{section} {count}" for section, count in counts.items())
    _answer(args, {"datalist": args.output, "counts": counts}, f"{args.output}: {text}")


def _train(args: argparse.Namespace) -> int:
    from medseg_monai.bundle import train

    result = train(
        args.bundle,
        configs=["train", *(args.config or [])],
        overrides=_folder_overrides(args),
        checkpoint=_weights(args.checkpoint),
        resume=args.resume,
        allow_expressions=args.allow_expressions,
        track=not args.no_tracking,
        tracking_uri=args.tracking_uri,
        experiment_name=args.experiment,
        registered_model_name=args.register,
    )
    best = "not validated" if result.best_metric is None else f"{result.best_metric:.4f} at epoch {result.best_epoch}"
    text = f"model: {result.model}\nepochs: {result.epochs}\nkey metric: {best}"
    if result.tracking_uri:
        text += f"\nMLflow: {result.tracking_uri} (run {result.run_id})"
    _answer(args, result.__dict__, text)
    if result.missing:
        sys.stderr.write(f"medseg: {result.missing}\n")
    return EXIT_FAILED if result.missing and result.registers else EXIT_OK


def _predict(args: argparse.Namespace) -> int:
    from medseg_monai.bundle import Predictor, predict_cases
    from medseg_monai.files import locked_folder

    inputs = [_absolute(entry) for entry in args.inputs]
    overrides = _overrides(args, dataset_dir=inputs, series=args.series)
    with locked_folder(args.output, "a prediction"):  # at once: loading a network takes long
        predictor = Predictor(args.bundle, checkpoint=_weights(args.checkpoint), overrides=overrides)
        report = predict_cases(
            predictor, predictor.cases, args.output, skip_existing=args.skip_existing, attention=args.attention
        )
    lines = [f"{len(report.cases) - len(report.failed)} of {len(report.cases)} predicted into {args.output}"]
    lines += [_failure(case) for case in report.failed]
    _answer(args, report.as_dict(), "\n".join(lines))
    return EXIT_FAILED if report.failed else EXIT_OK


def _failure(case: CaseReport) -> str:
    written = f"; written: {', '.join(case.outputs)}" if case.outputs else ""
    told = case.error if case.error.startswith(f"{case.input}: ") else f"{case.input}: {case.error}"
    return f"{case.status}: {told}{written}"


def _prune(args: argparse.Namespace) -> int:
    from medseg_monai.bundle import prune

    result = prune(
        args.bundle,
        Path(args.datalist).absolute(),
        section=args.section,
        max_dice_loss=args.max_dice_loss,
        level=args.level,
        checkpoint=_weights(args.checkpoint),
        output=args.output,
        overrides=_overrides(args),
    )
    _answer(args, result.as_dict(), result.as_text())
    return EXIT_OK


_COLUMNS = ("metric", "mean", "std", "pooled", "undefined", "missing")
_MISSING = "Such a structure has no distance: it is not part of a mean of hd95, and 'missing' counts it."


def _evaluate(args: argparse.Namespace) -> int:
    from medseg_monai.bundle import evaluate

    summary = evaluate(
        args.bundle,
        configs=["train", *(args.config or []), "evaluate"],
        overrides=_folder_overrides(args, checkpoint=_weights(args.checkpoint), section=args.section),
    )
    _answer(args, summary, _evaluation_as_text(summary))
    return EXIT_OK


def _evaluation_as_text(summary: Mapping[str, Any]) -> str:
    """The table of an evaluation; what is undefined is nan, and what a metric does not have is left out."""
    from medseg_monai.report import format_table

    rows: list[dict[str, Any]] = []
    for name, statistics in summary["per_case"].items():
        values = {key: float("nan") if value is None else value for key, value in statistics.items()}
        rows.append({"metric": name, **values, "pooled": summary["pooled"].get(name)})
    columns = [key for key in _COLUMNS if any(key in row for row in rows)]
    table = format_table(columns, [[row.get(key) for key in columns] for row in rows])
    head = summary["convention"] + (f" {_MISSING}" if "missing" in columns else "")
    cases = f"{summary['cases']} cases; tables and overlays in {summary['output_dir']}"
    return f"{textwrap.fill(head, width=100)}\n\n{table}\n{cases}"


def _export(args: argparse.Namespace) -> int:
    from medseg_monai.bundle.export import export_network
    from medseg_monai.files import refuse_given

    checkpoint = _weights(args.checkpoint)
    refuse_given([args.output], [checkpoint], "name another file")
    report = export_network(args.bundle, args.output, export_format=args.format, checkpoint=checkpoint)
    _answer(args, report, f"{report['file']}: differs from PyTorch by at most {report['max_difference']:.2e}")
    return EXIT_OK


def _import_weights(args: argparse.Namespace) -> int:
    from medseg_monai.files import refuse_given
    from medseg_monai.networks.weights.authors import import_weights
    from medseg_monai.networks.weights.model_file import settings_file

    refuse_given([args.output, settings_file(args.output)], [args.file], "name another file")
    report = import_weights(args.network, args.file, out=args.output)
    lines = [f"{args.output}: {report.tensors} tensors of {report.network} from {report.source}"]
    lines += [f"left out {key}: {why}" for key, why in report.dropped.items()]
    lines += [f"constructor argument {key} = {value}" for key, value in report.arguments.items()]
    lines += [f"setting for the bundle {key} = {value}" for key, value in report.settings.items()]
    _answer(args, report.summary(), "\n".join(lines))
    return EXIT_OK


def _experiment(args: argparse.Namespace) -> int:
    from medseg_monai.experiments import MIXED, run_cross_manufacturer

    if (args.train is None) != (args.test is None):
        raise ValueError(f"Give --train and --test together, or neither for every pair and '{MIXED}'.")
    names = [entry.partition("=")[0] for entry in args.data]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"--data {twice[0]}: given twice; put all its images into one folder.")
    output_dir = Path(args.output_dir).absolute()
    result = run_cross_manufacturer(
        args.bundle,
        dict(_labelled_items(entry, output_dir, args.seed) for entry in args.data),
        output_dir,
        pairs=None if args.train is None else [(args.train, args.test)],
        configs=["train", *(args.config or [])],
        overrides=_overrides(args),
        seed=args.seed,
        resume=args.resume,
    )
    _answer(args, result.as_dict(), result.as_text())
    return EXIT_OK


def _labelled_items(entry: str, output_dir: Path, seed: int) -> tuple[str, list[dict[str, Any]]]:
    """All items of a data set that ``NAME=FOLDER`` names."""
    from medseg_monai.datasets import DATASETS

    name, _, folder = entry.partition("=")
    if name not in DATASETS or not folder:
        raise ValueError(f"{entry}: write NAME=FOLDER with one of {', '.join(DATASETS.names)}.")
    datalist = DATASETS[name](
        folder, derived=output_dir.with_name(f"{output_dir.name}_derived"), validation_fraction=0.0, seed=seed
    )
    return name, [item for section in datalist.values() for item in section]


def _serve(args: argparse.Namespace) -> int:
    from medseg_monai.apps.label import serve

    without = [entry for entry in args.weights or [] if "=" not in entry]
    if without:
        raise ValueError(f"--weights {without[0]}: give BUNDLE=FILE, e.g. lung_lobe_ct_ctsunet=runs/lobes/model.pt.")
    serve(
        args.studies,
        work_dir=args.work_dir,
        bundles=args.bundles,
        weights={name: str(_weights(file)) for name, _, file in (one.partition("=") for one in args.weights or [])},
        host=args.host,
        port=args.port,
        behind_proxy=args.behind_proxy,
    )
    return EXIT_OK


def _demo(args: argparse.Namespace) -> int:
    from medseg_monai.demo import run_demo

    result = run_demo(args.output_dir)
    _answer(args, result.as_dict(), result.as_text())
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="answer in JSON on standard output")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error, and more of the log")
    keys = argparse.ArgumentParser(add_help=False)
    keys.add_argument("--set", action="append", metavar="KEY=VALUE", help="change a flat key of the bundle's config")
    keys.add_argument(
        "--allow-expressions", action="store_true", help="let options and a resumed run.json hold code, which is run"
    )
    weights = argparse.ArgumentParser(add_help=False)
    weights.add_argument(
        "--checkpoint", metavar="FILE", help="weights instead of the bundle's; models:/NAME/VERSION: those in MLflow"
    )
    work = argparse.ArgumentParser(add_help=False)
    work.add_argument("--dataset-dir", metavar="DIR", help="folder with datalist.json")
    work.add_argument("--datalist", metavar="FILE", help="data list, if it is not DIR/datalist.json")
    work.add_argument("--output-dir", "-o", metavar="DIR", help="folder of the run")
    work.add_argument(
        "--config", action="append", metavar="NAME", help="overlay of the bundle (e.g. train_from_scratch), or a file"
    )

    parser = argparse.ArgumentParser(prog="medseg", description="Medical image segmentation with MONAI bundles.")
    parser.add_argument("--version", action="version", version=f"medseg {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(
        name: str, run: Callable[[argparse.Namespace], int], help_text: str, *parents: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=help_text, description=help_text, parents=[common, *parents])
        added.set_defaults(run=run)
        return added

    verb("list", _list, "List the bundles.")
    verb("info", _info, "Describe a bundle and its keys.").add_argument("bundle")
    data = verb("data", _data, "Turn a public data set's folder, as published, into a data list.")
    data.add_argument("dataset", help="short name of the data set, e.g. drive")
    data.add_argument("folder", help="the folder as published")
    data.add_argument("-o", "--output", required=True, metavar="FILE", help="data list to write, e.g. datalist.json")
    data.add_argument("--validation-fraction", type=float, default=0.2, help="part of the training set held out")
    data.add_argument("--seed", type=int, default=0, help="seed of the split")
    combined = verb("combine", _combine, "Join several data lists into one, or split them again as a paper did.")
    combined.add_argument("datalists", nargs="+", metavar="FILE", help="data lists, each of a different data set")
    combined.add_argument("-o", "--output", required=True, metavar="FILE", help="data list to write")
    combined.add_argument("--split", metavar="NAME", help="defu, jms or v7; default: join the sections as they are")
    combined.add_argument("--seed", type=int, default=0, help="seed of the split")
    training = verb("train", _train, "Train a bundle.", keys, work)
    training.add_argument("bundle")
    training.add_argument("--checkpoint", metavar="FILE", help="weights to start from; default: random weights")
    training.add_argument("--resume", action="store_true", help="continue the training in --output-dir")
    training.add_argument("--tracking-uri", metavar="URI", help="MLflow address; default: a database in the output")
    training.add_argument("--experiment", metavar="NAME", help="MLflow experiment; default: the bundle's name")
    training.add_argument("--register", metavar="NAME", help="register the model under this name in MLflow's registry")
    training.add_argument("--no-tracking", action="store_true", help="do not log to MLflow")
    predict = verb("predict", _predict, "Predict files and folders.", keys, weights)
    predict.add_argument("bundle")
    predict.add_argument("inputs", nargs="+", metavar="INPUT", help="files, or folders of them or of a DICOM series")
    predict.add_argument("--series", action="append", metavar="UID", help="DICOM series to use, if there are several")
    predict.add_argument("--skip-existing", action="store_true", help="keep the cases that an earlier run completed")
    predict.add_argument("--attention", action="store_true", help="draw the network's attention, one sheet per case")
    predict.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for masks and report")
    pruning = verb("prune", _prune, "Deploy the smallest part of a network that is accurate enough.", keys, weights)
    pruning.add_argument("bundle")
    pruning.add_argument("--datalist", required=True, metavar="FILE", help="data list with labelled cases")
    pruning.add_argument("--section", default="validation", help="section of the data list")
    pruning.add_argument("--max-dice-loss", type=float, default=0.005, metavar="D", help="largest loss of mean Dice")
    pruning.add_argument("--level", type=int, metavar="N", help="use this level, whatever it loses")
    pruning.add_argument("-o", "--output", metavar="FILE", help="file to write instead of the bundle's model")
    evaluate = verb("evaluate", _evaluate, "Evaluate a bundle on labelled data.", keys, weights, work)
    evaluate.add_argument("bundle")
    evaluate.add_argument("--section", default="test", help="section of the data list")
    export = verb("export", _export, "Export a bundle's network.", weights)
    export.add_argument("bundle")
    export.add_argument("--format", choices=("torchscript", "onnx"), default="torchscript")
    export.add_argument("-o", "--output", required=True, metavar="FILE", help="file to write")
    imported = verb("import-weights", _import_weights, "Read the weights that a network's authors published.")
    imported.add_argument("network", help="short name of the network, e.g. cenet")
    imported.add_argument("file", help="the authors' file")
    imported.add_argument("-o", "--output", required=True, metavar="FILE", help="model file to write")
    experiment = verb("experiment", _experiment, "Repeat a published experiment: train, test, compare.", keys)
    experiment.add_argument("name", choices=("cross-manufacturer",), help="the experiment")
    experiment.add_argument("--bundle", required=True, help="the bundle to train")
    experiment.add_argument(
        "--data", action="append", required=True, metavar="NAME=FOLDER", help="a data set as published; give two"
    )
    experiment.add_argument("--train", metavar="NAME", help="data set to train on, or 'mixed'; default: each in turn")
    experiment.add_argument("--test", metavar="NAME", help="data set to test on, or 'mixed'")
    experiment.add_argument("--config", action="append", metavar="NAME", help="overlay of the bundle, or a file")
    experiment.add_argument("--seed", type=int, default=0, help="seed of the split and of the trainings")
    experiment.add_argument("--resume", action="store_true", help="continue the experiment in --output-dir")
    experiment.add_argument(
        "-o", "--output-dir", required=True, metavar="DIR", help="folder of the runs; derived masks go to DIR_derived"
    )
    serving = verb("serve", _serve, "Serve bundles to annotators with MONAI Label (see docs/label.md).")
    serving.add_argument("studies", metavar="STUDIES", help="folder of images, or the address of a DICOMweb server")
    serving.add_argument("--bundles", nargs="+", metavar="BUNDLE", help="default: all that have weights")
    serving.add_argument("--weights", action="append", metavar="BUNDLE=FILE", help="weights instead of the bundle's")
    serving.add_argument("--work-dir", default="runs/label", metavar="DIR", help="folder of the server's own files")
    serving.add_argument("--host", default="127.0.0.1", help="address to listen on")
    serving.add_argument("--port", type=int, default=8000, help="port to listen on")
    serving.add_argument(
        "--behind-proxy", action="store_true", help="others reach the host only through a proxy that controls access"
    )
    demo = verb("demo", _demo, "Draw phantoms, train, predict and evaluate, in a few minutes.")
    demo.add_argument("--output-dir", "-o", default="runs/demo", metavar="DIR", help="folder for everything")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``medseg``.

    Args:
        argv: arguments; by default those of the process.

    Returns:
        0 if all went well; 1 if a case failed, or for a fault in the program; 2 for a user's mistake, explained in one
        line.

    Example:
        >>> from medseg_monai.cli import main
        >>> main(["list"])  # doctest: +ELLIPSIS
        bundle...version  weights  task...
        0
    """
    args = _parser().parse_args(argv)
    set_up_logging(debug=args.debug)
    args.answers = sys.stdout
    # standard output is for the answer: whatever else is written, by us or by a library, goes to standard error
    with redirect_stdout(sys.stderr):
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        sys.stderr.write("medseg: interrupted\n")
        return 130
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        if is_users_mistake(error):
            sys.stderr.write(f"medseg: {explain(error)}\n")
            return EXIT_USAGE
        sys.stderr.write(f"medseg: {type(error).__name__}: {explain(error)} (--debug shows where)\n")
        return EXIT_FAILED


def run() -> None:
    """Run ``medseg`` as a program, and end the process with the exit code of :func:`main`.

    Python's exit handlers run, but the destructors of native libraries do not. These sometimes abort the process
    ("terminate called without an active exception"), which would turn the exit code into a signal.
    """
    code = main()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
