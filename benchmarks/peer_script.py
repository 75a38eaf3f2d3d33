"""The search that people write by hand: Optuna with MedianPruner, StratifiedKFold, transformers' Trainer.

`python -m benchmarks.peer_script SETTINGS.json` is run by benchmarks.peer, which says what is in the file. It knows
nothing of this project, and the project nothing of it. It pads each batch to its longest row, keeps no checkpoints and
writes to no tracker. The last line it prints is JSON: when the first trial began and the last one ended, how many rows
were trained, and the best score.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)


class Scores(TrainerCallback):
    """The macro-F1 of each epoch."""

    def __init__(self) -> None:
        self.of_epochs: list[float] = []

    def on_evaluate(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        """Keep the score that was just computed."""
        self.of_epochs.append(found["metrics"]["eval_macro_f1"])


def macro_f1(predicted: EvalPrediction) -> dict[str, float]:
    """What the Trainer scores the validation rows by."""
    found = np.asarray(predicted.predictions).argmax(axis=1)
    return {"macro_f1": float(f1_score(predicted.label_ids, found, average="macro", zero_division=0))}


def arguments_of(settings: dict[str, Any], folder: str, *, learning_rate: float) -> TrainingArguments:
    """What such scripts ask of the Trainer."""
    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=settings["epochs"],
        per_device_train_batch_size=settings["batch_size"],
        per_device_eval_batch_size=32,
        learning_rate=learning_rate,
        weight_decay=0.01,
        warmup_steps=0.1,  # below 1: a share of all steps
        eval_strategy="epoch",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )


def main() -> None:
    """Search, and print what was done."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    table = pd.read_csv(settings["data"], dtype=str, keep_default_na=False)
    texts = table[settings["text"]].agg(" ".join, axis=1)
    labels = table[settings["label"]].astype("category").cat.codes.to_numpy(np.int64)
    tokenizer = AutoTokenizer.from_pretrained(settings["encoder"])
    num_trained = 0

    def rows(chosen: Any) -> list[dict[str, Any]]:
        tokens = tokenizer(list(texts.iloc[chosen]), truncation=True, max_length=settings["max_length"])
        return [
            {"input_ids": ids, "attention_mask": mask, "labels": label}
            for ids, mask, label in zip(tokens["input_ids"], tokens["attention_mask"], labels[chosen], strict=True)
        ]

    def train(training: Any, validation: Any, learning_rate: float) -> float:
        model = AutoModelForSequenceClassification.from_pretrained(
            settings["encoder"], num_labels=int(labels.max()) + 1
        )
        if settings["trainable_layers"] is not None:
            for part in (model.base_model.embeddings, *model.base_model.encoder.layer[: -settings["trainable_layers"]]):
                part.requires_grad_(requires_grad=False)
        scores = Scores()
        with tempfile.TemporaryDirectory() as folder:
            Trainer(
                model=model,
                args=arguments_of(settings, folder, learning_rate=learning_rate),
                train_dataset=rows(training),
                eval_dataset=rows(validation),
                data_collator=DataCollatorWithPadding(tokenizer),
                compute_metrics=macro_f1,
                callbacks=[scores],
            ).train()
        return max(scores.of_epochs)

    def objective(trial: optuna.Trial) -> float:
        nonlocal num_trained
        learning_rate = trial.suggest_float("learning_rate", *settings["learning_rate"], log=True)
        folds = StratifiedKFold(settings["k"], shuffle=True, random_state=0)
        scores: list[float] = []
        for fold, (training, validation) in enumerate(folds.split(labels, labels)):
            scores.append(train(training, validation, learning_rate))
            num_trained += len(training) * settings["epochs"]
            trial.report(float(np.mean(scores)), fold)
            if trial.should_prune():
                raise optuna.TrialPruned
        return float(np.mean(scores))

    began = time.time()
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=0), pruner=optuna.pruners.MedianPruner()
    )
    study.optimize(objective, n_trials=settings["trials"])
    print(json.dumps({"began": began, "ended": time.time(), "rows": num_trained, "score": study.best_value}))


if __name__ == "__main__":
    main()
