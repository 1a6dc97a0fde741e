"""The training loop: epochs of length-sorted batches, saved often enough to be resumed exactly."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

from .encoding import pad, shuffled_batches
from .goemotions import BadData

STATE_FILE = "training-state.pt"


@dataclass(frozen=True)
class Settings:
    """What decides the outcome of a training; kept in its state, so that resuming with others is refused."""

    task: str
    base: str
    rows: int
    epochs: int
    batch_size: int
    learning_rate: float
    head_learning_rate: float
    warmup_share: float
    weight_decay: float
    gradient_norm: float
    max_length: int
    seed: int
    teacher_weight: float
    freeze_word_embeddings: bool
    bf16: bool


def multi_label_loss(logits, targets):
    """Mean binary cross-entropy times labels / 4, which keeps the gradient of many rare labels from vanishing."""
    return functional.binary_cross_entropy_with_logits(logits, targets) * (targets.shape[1] / 4)


def single_label_loss(logits, targets):
    """Cross-entropy against shares of the labels that sum to 1 for each row."""
    return functional.cross_entropy(logits, targets)


LOSSES = {"multi_label_classification": multi_label_loss, "single_label_classification": single_label_loss}


def rate_at(step, total_steps, warmup_share):
    """Share of the peak learning rate at a step (from 0): linear warm-up, then linear decay to 0."""
    warmup_steps = max(1, round(total_steps * warmup_share))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return (total_steps - step) / max(1, total_steps - warmup_steps)


def parameter_groups(model, settings):
    """Encoder and head with their own peak rates; no weight decay on biases and LayerNorm."""
    groups = {}
    for name, parameter in model.named_parameters():
        if settings.freeze_word_embeddings and name.endswith("word_embeddings.weight"):
            parameter.requires_grad_(False)
            continue
        # bert's pooler belongs to the head: sentence encoders leave it as they found it.
        is_head = not name.startswith(model.base_model_prefix + ".") or ".pooler." in name
        is_decayed = parameter.ndim > 1
        groups.setdefault((is_head, is_decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "peak": settings.head_learning_rate if is_head else settings.learning_rate,
            "weight_decay": settings.weight_decay if is_decayed else 0.0,
        }
        for (is_head, is_decayed), parameters in groups.items()
    ]


class Trainer:
    """
    One training of a model on encoded texts and their targets.

    Everything that moves is in its state file: weights, optimizer, random state and position. The batches of
    an epoch follow from the seed, the learning rate from the step, so a resumed run does what one without a
    stop would have done.
    """

    def __init__(self, model, encoded, targets, settings, out):
        self.model = model
        self.encoded = encoded
        self.targets = torch.from_numpy(np.asarray(targets, dtype=np.float32))
        self.settings = settings
        self.state_path = Path(out) / STATE_FILE
        self.loss = LOSSES[model.config.problem_type]
        self.optimizer = torch.optim.AdamW(parameter_groups(model, settings), lr=settings.learning_rate, fused=True)
        self.trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.lengths = [len(row) for row in encoded]
        self.steps_an_epoch = -(-len(encoded) // settings.batch_size)
        self.total_steps = self.steps_an_epoch * settings.epochs
        self.step = 0
        self.epoch_loss_sum = 0.0
        self.history = []
        torch.manual_seed(settings.seed)

    def save(self):
        """Writes the state next to its place and renames it: a crash leaves the old state or the new one."""
        partial = self.state_path.with_suffix(".partial")
        torch.save(
            {
                "settings": asdict(self.settings),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "random": torch.get_rng_state(),
                "step": self.step,
                "epoch_loss_sum": self.epoch_loss_sum,
                "history": self.history,
            },
            partial,
        )
        os.replace(partial, self.state_path)

    def resume(self):
        """Goes back to the saved state."""
        state = torch.load(self.state_path, weights_only=True)
        now, then = asdict(self.settings), state["settings"]
        differing = [f"{key} was {then.get(key)!r}, is {now[key]!r}" for key in now if then.get(key) != now[key]]
        if differing:
            raise BadData(f"{self.state_path} was made with other settings: {'; '.join(differing)}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        self.step = state["step"]
        self.epoch_loss_sum = state["epoch_loss_sum"]
        self.history = state["history"]

    def run(self, at_epoch_end, save_every_steps, stop_after_steps=None):
        """
        Trains to the end, or for stop_after_steps steps of this run; tells whether the end was reached.

        at_epoch_end(epoch) evaluates, keeps the model if it is the best so far, and returns scores for the history.
        """
        self.model.train()
        last_step = self.total_steps
        if stop_after_steps is not None:
            last_step = min(last_step, self.step + stop_after_steps)
        bar = tqdm(total=self.total_steps, initial=self.step, unit="step", desc="training", mininterval=1.0)
        while self.step < last_step:
            epoch, first = divmod(self.step, self.steps_an_epoch)
            batches = shuffled_batches(self.lengths, self.settings.batch_size, [self.settings.seed, epoch])
            for batch in batches[first : first + last_step - self.step]:
                loss = self._train_on(batch)
                self.epoch_loss_sum += loss
                done = self.step % self.steps_an_epoch
                mean = self.epoch_loss_sum / (done or self.steps_an_epoch)
                bar.update()
                bar.set_postfix(epoch=epoch + 1, loss=f"{loss:.3f}", mean=f"{mean:.4f}")
                if self.step % save_every_steps == 0 and done:
                    self.save()
            if self.step % self.steps_an_epoch == 0:
                scores = at_epoch_end(epoch + 1)
                mean_loss = self.epoch_loss_sum / self.steps_an_epoch
                self.history.append({"epoch": epoch + 1, "train_loss": round(mean_loss, 4), **scores})
                self.epoch_loss_sum = 0.0
            self.save()
        bar.close()
        return self.step == self.total_steps

    def _train_on(self, batch):
        rate = rate_at(self.step, self.total_steps, self.settings.warmup_share)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        input_ids, attention_mask = pad([self.encoded[row] for row in batch], self.model.config.pad_token_id)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.settings.bf16):
            logits = self.model(
                input_ids=torch.from_numpy(input_ids), attention_mask=torch.from_numpy(attention_mask)
            ).logits
        loss = self.loss(logits.float(), self.targets[batch])
        if not torch.isfinite(loss):
            raise BadData(f"the loss is {loss.item()} at step {self.step + 1}: lower --learning-rate")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trainable, self.settings.gradient_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()
