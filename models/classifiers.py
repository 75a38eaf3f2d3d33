"""The text classifier: a pretrained encoder, pooling, dropout and a linear head."""

from typing import Self

from torch import Tensor, nn

from models.encoders import check_encoder, encoder_layers, load_encoder
from models.params import ModelParams


class Head(nn.Module):
    """Dropout and a linear layer on pooled states; initialised from torch's global random state."""

    def __init__(self, width: int, *, dropout: float, num_classes: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, num_classes)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return logits, (rows, classes), for (rows, width)."""
        logits: Tensor = self.linear(self.dropout(pooled))
        return logits


class TextClassifier(nn.Module):
    """Classifies texts by the pooled states of an encoder; all of it, its top layers or only the head is trained.

    Raises EncoderError if the encoder cannot be used as asked.
    """

    def __init__(self, params: ModelParams, *, num_classes: int) -> None:
        super().__init__()
        check_encoder(params.encoder, trainable_layers=params.trainable_layers, max_length=params.max_length)
        self.encoder = load_encoder(params.encoder, dropout=params.encoder_dropout)
        self.pooling = params.pooling
        self.trainable_layers = params.trainable_layers
        self.head = Head(self.encoder.config.hidden_size, dropout=params.dropout, num_classes=num_classes)
        if self.trainable_layers is not None:
            # No graph is recorded below the first trained weight, so that backward ends there.
            self.encoder.requires_grad_(False)
            for layer in self._trained_layers():
                layer.requires_grad_(True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits, (rows, classes), for token ids and their mask, both (rows, tokens)."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits: Tensor = self.head(pool(hidden, attention_mask, pooling=self.pooling))
        return logits

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
