"""The text classifier: a pretrained encoder, pooling, dropout and a linear head."""

import copy
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from fold_search.models.adaptation import adapt, merge_lora
from fold_search.models.encoders import load_encoder
from fold_search.models.params import ModelParams
from fold_search.models.reading import encoder_layers, read_states, state_width, upper_states

WINDOWS_PER_FORWARD = 32  # only without gradients; a document may have a hundred windows


class Head(nn.Module):
    """Dropout and a linear layer on pooled states; initialised from torch's global random state.

    With `scale`, a logit is `scale` times the cosine of the row's state and the class's weights (Cao et al. 2019).
    """

    def __init__(self, width: int, *, dropout: float, num_outputs: int, scale: float | None = None) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.scale = scale
        self.linear = nn.Linear(width, num_outputs, bias=scale is None)
        nn.init.normal_(self.linear.weight, std=0.02)
        if scale is None:
            nn.init.zeros_(self.linear.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return logits, (rows, outputs), for (rows, width)."""
        states = self.dropout(pooled)
        if self.scale is None:
            logits: Tensor = self.linear(states)
            return logits
        return self.scale * functional.linear(functional.normalize(states), functional.normalize(self.linear.weight))


class Classifier(nn.Module):
    """A head on pooled states; the subclasses make these states."""

    head: nn.Module

    def pooled(self, **inputs: Tensor) -> Tensor:
        """Return the pooled states, (rows, width), of one batch of inputs: the input of the head."""
        raise NotImplementedError

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return logits, (rows, outputs), of one batch of inputs."""
        logits: Tensor = self.head(self.pooled(**inputs))
        return logits

    def depths(self) -> dict[str, int]:
        """Return how many layers each parameter lies below the head, which is at 0."""
        return {name: 0 for name, _ in self.named_parameters()}

    def merged(self) -> Self:
        """Return a copy with plain weights: low-rank updates are added to the weights they belong to."""
        copied = copy.deepcopy(self)
        merge_lora(copied)
        return copied

    def complete(self, tokenizer: Any) -> None:
        """Add to the pretrained encoder's tokenizer the tokens that this encoder knows too: markers of relations."""


class Pooling(nn.Module):
    """One vector per row from its token states: mean, first, maximum of each coordinate, or attention.

    Attention is a mean weighted by the softmax of a linear score (Yang et al. 2016). It starts as the plain mean.
    """

    def __init__(self, kind: Literal["mean", "cls", "max", "attention"], width: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "attention":
            self.query = nn.Parameter(torch.zeros(width, 1))

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Return (rows, width) for states (rows, tokens, width) and a mask (rows, tokens); masked tokens never count.

        A row without any token gives 0.
        """
        if self.kind == "mean":
            return mean_pool(hidden, attention_mask)
        left_out = attention_mask.unsqueeze(-1) == 0
        is_empty = left_out.all(dim=1, keepdim=True)
        left_out = left_out & ~is_empty
        if self.kind == "cls":
            pooled = hidden[:, 0]
        elif self.kind == "max":
            pooled = hidden.masked_fill(left_out, -torch.inf).amax(dim=1)
        else:
            weights = (hidden @ self.query).masked_fill(left_out, -torch.inf).softmax(dim=1)
            pooled = (weights * hidden).sum(dim=1)
        return pooled.masked_fill(is_empty.squeeze(1), 0)


class HeadOnly(Classifier):
    """A head on states that were computed before."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def pooled(self, *, states: Tensor) -> Tensor:  # type: ignore[override]
        """Return the states, (rows, width), as they are."""
        return states


class TextClassifier(Classifier):
    """Classifies texts by the pooled states of an encoder, which is trained as the params say.

    Raises EncoderError if the encoder cannot be used as asked.
    """

    def __init__(self, params: ModelParams, *, num_outputs: int, scale: float | None = None) -> None:
        super().__init__()
        self.encoder = load_encoder(params.encoder, dropout=params.encoder_dropout)
        width = state_width(self.encoder.config)
        self.trainable_layers = params.trainable_layers
        self.pooling = Pooling(params.pooling, width)
        self.head = Head(width, dropout=params.dropout, num_outputs=num_outputs, scale=scale)
        # After the head, so that the head's weights do not depend on what else is drawn.
        adapt(self.encoder, params)

    def pooled(self, *, row_of_window: Tensor | None = None, **inputs: Tensor) -> Tensor:
        """Return the pooled states, (rows, width), for the inputs of `hidden`.

        With `row_of_window`, (windows,), a line of the inputs is one window of a row; the row gets the mean of its
        windows' pooled states.
        """
        num_lines = len(inputs["attention_mask"])
        size = num_lines if row_of_window is None or torch.is_grad_enabled() else WINDOWS_PER_FORWARD
        pooled = []
        for start in range(0, num_lines, size):
            part = {name: tensor[start : start + size] for name, tensor in inputs.items()}
            pooled.append(self.pooling(self.hidden(**part), part["attention_mask"]))
        return mean_of_windows(torch.cat(pooled), row_of_window)

    def hidden(
        self, *, attention_mask: Tensor, input_ids: Tensor | None = None, states: Tensor | None = None
    ) -> Tensor:
        """Return the encoder's last states, (rows, tokens, width), of token ids and their mask, both (rows, tokens).

        Instead of ids it also takes `states`, (rows, tokens, width), from the layers below the trained ones.
        """
        if input_ids is not None:
            return read_states(self.encoder, input_ids=input_ids, attention_mask=attention_mask)
        if states is None:
            raise ValueError("expected input_ids or states, found neither")
        layers = self.trainable_layers or 0
        return upper_states(self.encoder, num_layers=layers, states=states, attention_mask=attention_mask)

    def depths(self) -> dict[str, int]:
        """Return how far below the head each parameter lies: the head 0, the top layer 1, the embeddings most."""
        layers = encoder_layers(self.encoder)
        depth_of = {id(weight): 0 for part in (self.head, self.pooling) for weight in part.parameters()}
        for depth, layer in enumerate(reversed(layers), start=1):
            depth_of |= {id(weight): depth for weight in layer.parameters()}
        return {name: depth_of.get(id(weight), len(layers) + 1) for name, weight in self.named_parameters()}

    def train(self, mode: bool = True) -> Self:
        """Switch to training, or to evaluation; frozen parts stay in evaluation."""
        super().train(mode)
        if self.trainable_layers is not None:
            self.encoder.eval()
            layers = encoder_layers(self.encoder)
            for layer in layers[len(layers) - self.trainable_layers :]:
                layer.train(mode)
        return self


def mean_pool(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean of the states, (rows, tokens, width), that the mask, (rows, tokens), keeps: (rows, width)."""
    weights = attention_mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def mean_of_windows(pooled: Tensor, row_of_window: Tensor | None) -> Tensor:
    """Return the mean over each row's windows: (windows, width) -> (rows, width). Unchanged without `row_of_window`."""
    if row_of_window is None:
        return pooled
    shares = functional.one_hot(row_of_window).to(pooled.dtype)
    return (shares / shares.sum(dim=0)).T @ pooled
