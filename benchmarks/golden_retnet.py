"""Logits of the released RetNet code, kept for readers who do not install it: data/golden/.

    python -m benchmarks.golden_retnet

A small RetNet of torchscale with random weights reads the same tokens in each of its three modes,
once with its released eps and once with eps so small that it has no effect. A test makes the file
again and compares.
"""

from importlib.metadata import version

import torch

from benchmarks.golden import DIRECTORY, keep
from tests.torchscale_peer import import_torchscale

TARGET = DIRECTORY / "retnet-torchscale.safetensors"
SIZES = {"d_model": 32, "value_width": 48, "heads": 2, "ffn": 48, "layers": 2, "vocabulary": 61}
LENGTH, CHUNK, SEED = 48, 16, 0


def decoder(eps: float, chunkwise: bool = False):
    """Their language model, the same weights at each call."""
    torchscale = import_torchscale()
    config = torchscale.RetNetConfig(
        decoder_embed_dim=SIZES["d_model"],
        decoder_value_embed_dim=SIZES["value_width"],
        decoder_retention_heads=SIZES["heads"],
        decoder_ffn_embed_dim=SIZES["ffn"],
        decoder_layers=SIZES["layers"],
        vocab_size=SIZES["vocabulary"],
        layernorm_eps=eps,
        chunkwise_recurrent=chunkwise,
        recurrent_chunk_size=CHUNK,
    )
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        embedding = torch.nn.Embedding(SIZES["vocabulary"], SIZES["d_model"])
        return torchscale.RetNetDecoder(config, embedding).eval()


@torch.no_grad()
def golden() -> dict[str, torch.Tensor]:
    """Weights, tokens and logits."""
    tokens = torch.randint(
        SIZES["vocabulary"], (2, LENGTH), generator=torch.Generator().manual_seed(SEED)
    )
    parts = {f"weights.{name}": tensor for name, tensor in decoder(1e-6).state_dict().items()}
    parts["tokens"] = tokens
    for label, eps in (("released_eps", 1e-6), ("no_eps", 1e-30)):
        parts[f"logits.parallel.{label}"] = decoder(eps)(tokens)[0]
        parts[f"logits.chunkwise.{label}"] = decoder(eps, chunkwise=True)(tokens)[0]
        model, state, steps = decoder(eps), {}, []
        for t in range(LENGTH):
            steps.append(model(tokens[:, : t + 1], incremental_state=state)[0])
        parts[f"logits.recurrent.{label}"] = torch.cat(steps, dim=1)
    return {name: tensor.contiguous() for name, tensor in parts.items()}


def main() -> None:
    provenance = {
        "source": f"torchscale {version('torchscale')}, torchscale.architecture.retnet",
        "licence": "MIT (the code); the numbers are random weights and what it computes with them",
        "command": "python -m benchmarks.golden_retnet",
        "seed": SEED,
        "sizes": SIZES | {"length": LENGTH, "chunk": CHUNK},
    }
    keep(TARGET, golden(), provenance)


if __name__ == "__main__":
    main()
