"""The text classifier: a pretrained encoder, pooling, dropout and a linear head."""

from typing import Self

from torch import Tensor, nn
from torch.nn import functional

from models.encoders import check_encoder, encoder_layers, load_encoder
from models.params import ModelParams


class Head(nn.Module):
    """Dropout and a linear layer on pooled states; initialised from torch's global random state.

    With a `scale`, logits are that many times the cosine of a row's state and a class's weights (Cao et al. 2019).
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
    """A head on pooled states; what makes these is the subclasses'."""

    head: nn.Module

    def pooled(self, **inputs: Tensor) -> Tensor:
        """Return what the head sees, (rows, width), of one batch of inputs."""
        raise NotImplementedError

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return logits, (rows, outputs), of one batch of inputs."""
        logits: Tensor = self.head(self.pooled(**inputs))
        return logits

    def depths(self) -> dict[str, int]:
        """Return how many layers each parameter lies below the head, which is at 0."""
        return {name: 0 for name, _ in self.named_parameters()}


class HeadOnly(Classifier):
    """A head on states that were computed before."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def pooled(self, *, states: Tensor) -> Tensor:  # type: ignore[override]
        """Return the states, (rows, width), as they are."""
        return states


class TextClassifier(Classifier):
    """Classifies texts by the pooled states of an encoder; all of it, its top layers or only the head is trained.

    Raises EncoderError if the encoder cannot be used as asked.
    """

    def __init__(self, params: ModelParams, *, num_outputs: int, scale: float | None = None) -> None:
        super().__init__()
        check_encoder(params.encoder, trainable_layers=params.trainable_layers, max_length=params.max_length)
        self.encoder = load_encoder(params.encoder, dropout=params.encoder_dropout)
        self.pooling = params.pooling
        self.trainable_layers = params.trainable_layers
        self.head = Head(self.encoder.config.hidden_size, dropout=params.dropout, num_outputs=num_outputs, scale=scale)
        if self.trainable_layers is not None:
            # No graph is recorded below the first trained weight, so that backward ends there.
            self.encoder.requires_grad_(False)
            for layer in self._trained_layers():
                layer.requires_grad_(True)

    def pooled(self, *, input_ids: Tensor, attention_mask: Tensor) -> Tensor:  # type: ignore[override]
        """Return what the head sees, (rows, width), of token ids and their mask, both (rows, tokens)."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return pool(hidden, attention_mask, pooling=self.pooling)

    def depths(self) -> dict[str, int]:
        """Return how far below the head each parameter lies: 0 the head, 1 the top layer, most the embeddings."""
        layers = list(encoder_layers(self.encoder))
        depth_of = {id(weight): 0 for weight in self.head.parameters()}
        for depth, layer in enumerate(reversed(layers), start=1):
            depth_of |= {id(weight): depth for weight in layer.parameters()}
        return {name: depth_of.get(id(weight), len(layers) + 1) for name, weight in self.named_parameters()}

    def train(self, mode: bool = True) -> Self:
        """Switch to training, or to evaluation; frozen parts stay in evaluation."""
        super().train(mode)
        if self.trainable_layers is not None:
            self.encoder.eval()
            for layer in self._trained_layers():
                layer.train(mode)
        return self

    def _trained_layers(self) -> list[nn.Module]:
        layers = list(encoder_layers(self.encoder))
        return layers[len(layers) - (self.trainable_layers or 0) :]


def pool(hidden: Tensor, attention_mask: Tensor, *, pooling: str) -> Tensor:
    """Return one vector a row: (rows, tokens, width), (rows, tokens) -> (rows, width)."""
    return hidden[:, 0] if pooling == "cls" else mean_pool(hidden, attention_mask)


def mean_pool(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean of the states, (rows, tokens, width), that the mask, (rows, tokens), keeps: (rows, width)."""
    weights = attention_mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
