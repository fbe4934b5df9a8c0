r"""Transformer over the tokens of one spectrum, pretrained by predicting tokens that are hidden from it.

.. math:: h_0 = W t + p, \quad h_{i+1} = \mathrm{Block}_i(h_i), \quad \hat t = W' \mathrm{LN}(h_D)

Axes: b batch, n tokens, m visible tokens, f token features, l pixels, d width.
"""

import math

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..registry import choose
from .base import Encoder, grouped
from .blocks import Block, CrossBlock, initialise_block, take, truncated
from .tokenizer import Tokenizer

__all__ = ["MaskDecoder", "MaskedTransformer"]

MASKING = ("zero", "token", "drop")
ATTENTION_SCALE = ("standard", "published")


class MaskDecoder(nn.Module):
    """Predicts hidden tokens (b, m', f): their positions attend to the encoded visible ones (b, m, d).

    References:
        Rethinking patch dependence for masked autoencoders, Fu et al. 2024, https://arxiv.org/abs/2401.14391

    Arguments:
        n_tokens, features: n and f of the tokenizer.
        width: d of the encoder.
        decoder_width, depth, heads: sizes of the decoder.
    """

    def __init__(
        self, n_tokens: int, features: int, width: int, decoder_width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        self.memory = nn.Linear(width, decoder_width)
        self.query_position = nn.Parameter(torch.empty(n_tokens, decoder_width))
        self.blocks = nn.ModuleList(CrossBlock(decoder_width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(decoder_width)
        self.output = nn.Linear(decoder_width, features)
        self.template = nn.Parameter(
            torch.zeros(n_tokens, features)
        )  # the mean spectrum need not pass the blocks
        truncated(self.query_position, 1.0)
        for block in self.blocks:
            initialise_block(block, depth)

    def forward(self, encoded: Tensor, hidden: Tensor) -> Tensor:
        """Encoded visible tokens (b, m, d) and hidden positions (b, m') -> predictions (b, m', f)."""
        memory = self.memory(encoded)
        queries = self.query_position[hidden]
        for block in self.blocks:
            queries = block(queries, memory)
        return self.output(self.norm(queries)) + self.template[hidden]


class MaskedTransformer(Encoder):
    """Pre-norm transformer over windows of a spectrum.

    The published encoder of LAMOST LRS is the default: 146 tokens × 21 features, width 768, depth 6, 6
    heads, a table of 150 positions (`positions=150`), 42,677,013 parameters with its output layer.

    `masking` says how hidden tokens will be presented, hence which parameters exist: `"zero"` sets their
    features to zero (published), `"token"` replaces their embedding by a learned one, `"drop"` encodes the
    visible ones only and predicts the hidden ones with a light `MaskDecoder`.

    `attention_scale="published"` divides the logits by d/h instead of its square root, as the released
    weights
    expect: there the queries are scaled before a kernel that scales again.

    References:
        SpecCLIP, Zhao et al. 2025, https://arxiv.org/abs/2507.01939
        Masked autoencoders are scalable vision learners, He et al. 2021, https://arxiv.org/abs/2111.06377

    Arguments:
        length: pixels l.
        width, depth, heads, mlp_ratio: sizes.
        window, stride, stats, keep_last: see `Tokenizer`.
        positions: rows of the position table; None is n.
        attention_scale, masking: see above.
        dropout: of attention weights and of both residual branches.
        decoder_width, decoder_depth: of the `MaskDecoder`; None is half the width.

    Raises:
        ConfigError: sizes that do not fit, or an unknown choice.

    Example:
        >>> encoder = MaskedTransformer(length=1462, width=96, depth=2, heads=4, window=20, stride=20)
        >>> encoder(torch.rand(3, 1462)).shape
        torch.Size([3, 74, 96])
    """

    def __init__(
        self,
        length: int,
        width: int = 768,
        depth: int = 6,
        heads: int = 6,
        mlp_ratio: float = 4,
        window: int = 20,
        stride: int = 10,
        stats: str = "log_std",
        keep_last: bool = True,
        positions: int | None = None,
        attention_scale: str = "standard",
        masking: str = "zero",
        dropout: float = 0.0,
        decoder_width: int | None = None,
        decoder_depth: int = 1,
    ) -> None:
        super().__init__()
        self.tokenizer = Tokenizer(length, window, stride, stats, keep_last)
        self.length, self.width, self.n_tokens = length, width, self.tokenizer.n_tokens
        self.masking = choose("masking", masking, MASKING)
        features = self.tokenizer.features
        rows = self.n_tokens if positions is None else positions
        if rows < self.n_tokens:
            raise ConfigError(
                f"positions={rows} is too short for {self.n_tokens} tokens: leave it out or enlarge it."
            )
        published = choose("attention_scale", attention_scale, ATTENTION_SCALE) == "published"
        scale = heads / width if published else None

        self.embed = nn.Linear(features, width)
        self.position = nn.Parameter(torch.empty(rows, width))
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, dropout, scale) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.mask_token = nn.Parameter(torch.empty(width)) if masking == "token" else None
        self.output = nn.Linear(width, features) if masking != "drop" else None
        self.decoder = None
        if masking == "drop":
            inner = decoder_width or width // 2
            decoder_heads = max(h for h in range(1, heads + 1) if inner % h == 0)
            self.decoder = MaskDecoder(self.n_tokens, features, width, inner, decoder_depth, decoder_heads)
        self._initialise()

    def _initialise(self) -> None:
        std = 1 / math.sqrt(self.width)
        for weight in (self.embed.weight, self.position, self.mask_token):
            if weight is not None:
                truncated(weight, std)
        nn.init.zeros_(self.embed.bias)
        for block in self.blocks:
            initialise_block(block, len(self.blocks))
        if self.output is not None:
            truncated(self.output.weight, std)
            nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, ivar: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return self.encode(self.tokenizer(x, ivar, mask).values)

    def encode(self, values: Tensor, visible: Tensor | None = None, hidden: Tensor | None = None) -> Tensor:
        """Tokens to their embeddings.

        Arguments:
            values: token features, shape (b, n, f).
            visible: indices of the tokens to encode, shape (b, m); None is all.
            hidden: True where the mask token stands for a token, shape (b, n); needs `masking="token"`.

        Returns:
            Shape (b, m, d).
        """
        if visible is None:
            h = self.embed(values)
            if hidden is not None:
                assert self.mask_token is not None
                h = torch.where(hidden[:, :, None], self.mask_token.to(h.dtype), h)
            h = h + self.position[: values.shape[1]]
        else:
            h = self.embed(take(values, visible)) + self.position[visible]
        for block in self.blocks:
            h = block(h)
        return self.norm(h)

    def predict(self, tokens: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Token features of every token, (b, n, d) -> (b, n, f).

        With `masking="drop"`: of the `hidden` positions (b, m'), from the encoded visible ones, -> (b, m',
        f).
        """
        if self.decoder is not None:
            if hidden is None:
                hidden = torch.arange(self.n_tokens, device=tokens.device).expand(len(tokens), -1)
            return self.decoder(tokens, hidden)
        assert self.output is not None
        return self.output(tokens)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        first: list = [self.embed, self.position, self.mask_token]
        last: list = [self.norm, self.output, self.decoder]
        return grouped(first, *self.blocks, last)

    def flops(self, visible: int | None = None) -> int:
        n = self.n_tokens if visible is None else visible
        linears = [m for block in self.blocks for m in block.modules() if isinstance(m, nn.Linear)]
        weights = sum(m.weight.numel() for m in (self.embed, *linears))
        return 2 * n * weights + 4 * n * n * self.width * len(self.blocks)

    @classmethod
    def example(cls) -> "MaskedTransformer":
        return cls(length=67, width=16, depth=2, heads=2, window=10, stride=5)
