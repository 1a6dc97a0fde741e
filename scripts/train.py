#!/usr/bin/env python3
"""
Fine-tunes a sequence classifier on GoEmotions-format TSV files.

    train.py --task goemotions --base DIR --data DIR --out DIR
    train.py --task ekman --base DIR --data DIR --out DIR --teacher-logits train_logits.npy

The data folder holds labels.txt, train.tsv, dev.tsv and test.tsv. Dev chooses the best epoch and the
thresholds; test is only reported. The out folder becomes a checkpoint that export.py reads: config.json,
model.safetensors, tokenizer.json, and scores.json with the figures and how they were made.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from emotion_training import checkpoint, encoding, goemotions, scoring, targets
from emotion_training.trainer import STATE_FILE, Settings, Trainer

# What each task is trained with unless told otherwise: what did best on dev for the two shipped models.
RECIPES = {
    "goemotions": {"epochs": 3, "batch_size": 64, "learning_rate": 6e-5, "head_learning_rate": 2e-4},
    "ekman": {"epochs": 5, "batch_size": 32, "learning_rate": 1e-4, "head_learning_rate": 4e-4},
}

TASKS = {
    "goemotions": {
        "problem_type": "multi_label_classification",
        "protocol": "per-label thresholds that maximise F1 on dev, step 0.01; epoch chosen by dev macro-F1 at "
        "thresholds tuned the same way; test only reported",
    },
    "ekman": {
        "problem_type": "single_label_classification",
        "protocol": "the label is the argmax; gold is the set of Ekman groups of the row's labels; accuracy: argmax "
        "in the gold set; F1 per label against the gold set; epoch chosen by dev macro-F1; test only reported",
    },
}


def arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__.strip().split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--task", required=True, choices=TASKS, help="28 labels, several a text; or 7, one a text")
    parser.add_argument("--base", required=True, help="checkpoint folder or hub id (roberta, bert or mpnet)")
    parser.add_argument("--data", required=True, type=Path, help="folder of labels.txt, train, dev and test .tsv")
    parser.add_argument("--out", required=True, type=Path, help="folder for the fine-tuned checkpoint")
    parser.add_argument("--teacher-logits", type=Path, help="ekman: .npy [training rows, labels.txt] of a teacher")
    parser.add_argument("--teacher-weight", type=float, default=0.8, help="the teacher's share of the target, 0 to 1")
    for name, kind, what in (
        ("epochs", int, "times over the training rows"),
        ("batch_size", int, "texts a step"),
        ("learning_rate", float, "peak, encoder"),
        ("head_learning_rate", float, "peak, classifier head"),
    ):
        defaults = ", ".join(f"{recipe[name]} for {task}" for task, recipe in RECIPES.items())
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=argparse.SUPPRESS, help=f"{what} (default: {defaults})"
        )
    parser.add_argument("--warmup-share", type=float, default=0.1, help="share of the steps with a rising rate")
    parser.add_argument("--weight-decay", type=float, default=0.01, help="not on biases and LayerNorm")
    parser.add_argument("--gradient-norm", type=float, default=1.0, help="longer gradients are cut to this norm")
    parser.add_argument("--max-length", type=int, default=64, help="tokens a text, special tokens included")
    parser.add_argument("--train-rows", type=int, help="train on the first rows only, to compare settings")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--train-word-embeddings", action="store_true", help="they are frozen otherwise")
    parser.add_argument("--float32", action="store_true", help="no bfloat16 autocast")
    parser.add_argument("--threads", type=int, help="CPU threads; torch chooses otherwise")
    parser.add_argument("--save-every", type=int, default=200, metavar="STEPS", help="steps between saved states")
    parser.add_argument("--stop-after", type=int, metavar="STEPS", help="stop this run after so many steps, score dev")
    parser.add_argument("--resume", action="store_true", help="go on from the state in the out folder")
    given = parser.parse_args(argv)
    chosen = argparse.Namespace(**{**RECIPES[given.task], **vars(given)})
    for name in ("epochs", "batch_size", "max_length", "save_every", "train_rows", "threads", "stop_after"):
        value = getattr(chosen, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} is {value}, expected 1 or more")
    if chosen.teacher_logits and chosen.task != "ekman":
        parser.error("--teacher-logits is for --task ekman")
    return chosen


def check_out(out, resume):
    """Refuses to overwrite a training, or to resume where there is none."""
    has_state = (out / STATE_FILE).is_file()
    if resume and not has_state:
        raise goemotions.BadData(f"{out} holds no {STATE_FILE} to resume: leave --resume out to start")
    if not resume and (has_state or (out / "model.safetensors").exists()):
        raise goemotions.BadData(f"{out} holds a training already: add --resume, or choose another --out")
    out.mkdir(parents=True, exist_ok=True)


def read_data(chosen):
    """Label names of the task, the three splits with the task's gold labels, and the training targets."""
    file_labels = goemotions.read_labels(chosen.data)
    splits = {name: goemotions.read_split(chosen.data, name, file_labels) for name in ("train", "dev", "test")}
    if chosen.task == "goemotions":
        wanted = splits["train"].gold.astype("float32")
        labels = file_labels
    else:
        labels = list(goemotions.EKMAN_LABELS)
        splits = {name: goemotions.to_ekman(split, file_labels) for name, split in splits.items()}
        wanted = targets.even_shares(splits["train"].gold)
        if chosen.teacher_logits:
            logits = targets.read_teacher_logits(chosen.teacher_logits, len(splits["train"]), file_labels)
            wanted = targets.mix(wanted, targets.teacher_shares(logits, file_labels), chosen.teacher_weight)
    return labels, splits, wanted


def figures(task, logits, split, thresholds=None):
    """Named scores of logits on a split, rounded to 4 decimals; multi-label needs the thresholds to judge at."""
    if task == "goemotions":
        tuned = scoring.score(scoring.decide_multi_label(logits, thresholds), split.gold)
        plain = scoring.score(scoring.decide_multi_label(logits, [0.5] * logits.shape[1]), split.gold)
        named = {
            "macro_f1_tuned": tuned.macro_f1,
            "micro_f1_tuned": tuned.micro_f1,
            "exact_match_tuned": tuned.exact_match,
            "macro_f1_at_0.5": plain.macro_f1,
        }
    else:
        scores = scoring.score(scoring.decide_single_label(logits), split.gold)
        named = {"macro_f1": scores.macro_f1, "micro_f1": scores.micro_f1, "accuracy": scores.accuracy}
    return {name: round(value, 4) for name, value in named.items()}


def main(argv=None):
    chosen = arguments(argv)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    check_out(chosen.out, chosen.resume)
    labels, splits, wanted = read_data(chosen)
    base = checkpoint.locate(chosen.base)
    model = load_with_head(chosen, base, labels)
    config = model.config
    longest = encoding.readable_tokens(config.model_type, config.max_position_embeddings, config.pad_token_id)
    if chosen.max_length > longest:
        raise goemotions.BadData(f"--max-length {chosen.max_length} is over the {longest} tokens that {base} can read")
    tokenizer = encoding.load_tokenizer(base)
    encoded = {name: encoding.encode(tokenizer, split.texts, chosen.max_length) for name, split in splits.items()}
    rows = slice(chosen.train_rows)
    settings = Settings(
        task=chosen.task, base=str(chosen.base), rows=len(encoded["train"][rows]), epochs=chosen.epochs,
        batch_size=chosen.batch_size, learning_rate=chosen.learning_rate,
        head_learning_rate=chosen.head_learning_rate, warmup_share=chosen.warmup_share,
        weight_decay=chosen.weight_decay, gradient_norm=chosen.gradient_norm, max_length=chosen.max_length,
        seed=chosen.seed, teacher_weight=chosen.teacher_weight if chosen.teacher_logits else 0.0,
        freeze_word_embeddings=not chosen.train_word_embeddings, bf16=not chosen.float32,
    )
    trainer = Trainer(model, encoded["train"][rows], wanted[rows], settings, chosen.out)
    if chosen.resume:
        trainer.resume()

    def score_dev():
        logits = checkpoint.predict(model, encoded["dev"], autocast=settings.bf16)
        thresholds = scoring.tune_thresholds(logits, splits["dev"].gold) if chosen.task == "goemotions" else None
        return {f"dev_{name}": value for name, value in figures(chosen.task, logits, splits["dev"], thresholds).items()}

    def selector(scores):
        return scores["dev_macro_f1_tuned" if chosen.task == "goemotions" else "dev_macro_f1"]

    def at_epoch_end(epoch):
        scores = score_dev()
        print(f"epoch {epoch}: {json.dumps(scores)}", flush=True)
        if all(selector(scores) > selector(earlier) for earlier in trainer.history):
            checkpoint.save(model, base, chosen.out)
        return scores

    started, first_step = time.monotonic(), trainer.step
    finished = trainer.run(at_epoch_end, chosen.save_every, chosen.stop_after)
    if trainer.step > first_step:
        seconds = (time.monotonic() - started) / (trainer.step - first_step)
        print(f"{trainer.step - first_step} steps, {seconds:.2f} s a step")
    if not finished:
        print(f"stopped after step {trainer.step} of {trainer.total_steps}: {json.dumps(score_dev())}")
        return
    report(chosen, splits, encoded, trainer, settings)


def load_with_head(chosen, base, labels):
    """The base with a classifier for the task's labels; the seed decides the weights of a new head."""
    torch.manual_seed(chosen.seed)
    return checkpoint.load(
        base,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        problem_type=TASKS[chosen.task]["problem_type"],
    )


def report(chosen, splits, encoded, trainer, settings):
    """Scores the best epoch in full float32, writes scores.json, and clears the state away."""
    best = checkpoint.load(chosen.out)
    logits = {name: checkpoint.predict(best, encoded[name]) for name in ("dev", "test")}
    scores = {"protocol": TASKS[chosen.task]["protocol"]}
    thresholds = None
    if chosen.task == "goemotions":
        thresholds = scoring.tune_thresholds(logits["dev"], splits["dev"].gold)
    for name, split_logits in logits.items():
        named = figures(chosen.task, split_logits, splits[name], thresholds)
        scores.update({f"{name}_{figure}": value for figure, value in named.items()})
    if thresholds:
        scores["thresholds"] = dict(zip(best.config.id2label.values(), thresholds, strict=True))
    recipe = {key: value for key, value in vars(settings).items() if key != "base"}
    scores["training"] = {"base": Path(settings.base).name, **recipe, "history": trainer.history}
    (chosen.out / "scores.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    (chosen.out / STATE_FILE).unlink(missing_ok=True)
    print(json.dumps({key: value for key, value in scores.items() if key != "training"}, indent=1))


def command(argv=None):
    """Exit code of a call; what is wrong with its input is said without a traceback."""
    try:
        main(argv)
    except goemotions.BadData as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("train.py: interrupted; --resume goes on from the last saved state", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(command())
