"""Bounds, and numbers that are wrong without a word."""

from __future__ import annotations

from typing import Any

from hostile.cases.tokenizers import at
from hostile.scene import Case, both, config, late, refused, right, tokenizer, weights


def far(token_id: int) -> Any:
    def change(content: Any) -> None:
        content["added_tokens"].append(
            {
                "id": token_id,
                "content": "<|far|>",
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        )

    return change


def source(**more: Any) -> Any:
    return config(
        tokenizer_source=None, tokenizer=lambda scene: {"source": str(scene.donor), **more}
    )


NAN, INF = float("nan"), float("inf")

CASES: list[Case] = [
    refused(
        "an id of 2^31",
        tokenizer("donor", at("model", "vocab", "a", value=1 << 31)),
        "{donor}",
        "2147483648",
    ),
    refused(
        "an id of 2^31 in the base",
        tokenizer("base", at("model", "vocab", "a", value=1 << 31)),
        "{base}",
        "2147483648",
    ),
    refused(
        "an id of 10^8",
        tokenizer("donor", at("model", "vocab", "a", value=10**8)),
        "{donor}",
        "100000000",
    ),
    refused(
        "padding to 10^12", source(pad_to_multiple_of=10**12), "pad_to_multiple_of", "1000000000000"
    ),
    refused("padding to 10^7", source(pad_to_multiple_of=10**7), "pad_to_multiple_of"),
    refused("padding to 0", source(pad_to_multiple_of=0), "pad_to_multiple_of"),
    refused("padding to -8", source(pad_to_multiple_of=-8), "pad_to_multiple_of"),
    right("padding to 128", source(pad_to_multiple_of=128)),
    *(
        right(
            f"wechsel with a temperature of {temperature}",
            config(merge_method="wechsel", parameters={"temperature": temperature}),
        )
        for temperature in (1e-45, 1e-38, 1e-30, 1e-10, 1e30)
    ),
    right(
        "dropout in the donor's tokenizer", tokenizer("donor", at("model", "dropout", value=0.9))
    ),
    refused("dropout of NaN", tokenizer("donor", at("model", "dropout", value=7)), "{donor}"),
    *(
        refused(
            f"a weight of {value} in omp+linear",
            config(
                merge_method="omp+linear",
                models=lambda s, value=value: [
                    {"model": str(s.base), "parameters": {"weight": value}}
                ],
            ),
            "weight",
        )
        for value in (NAN, INF, 0)
    ),
    refused(
        "a donor of NaN",
        weights("donor", lambda t: t["lm_head.weight"].fill_(NAN)),
        "{donor}",
        "lm_head.weight",
    ),
    refused(
        "a base of NaN",
        weights("base", lambda t: t["model.embed_tokens.weight"].fill_(NAN)),
        "{base}",
        "model.embed_tokens.weight",
    ),
    late(
        "a NaN in a layer of the base",
        weights("base", lambda t: t["model.layers.0.mlp.up_proj.weight"].__setitem__((0, 0), NAN)),
        "model.layers.0.mlp.up_proj.weight",
    ),
    refused(
        "a NaN in a row of the base",
        weights("base", lambda t: t["model.embed_tokens.weight"].__setitem__((300, 0), NAN)),
        "{base}",
        "id 300",
    ),
    late(
        "numbers too large for the dtype",
        both(weights("base", lambda t: t["model.norm.weight"].fill_(1e6)), config(dtype="float16")),
        "model.norm.weight",
        "float16",
    ),
    late(
        "numbers too large for the output's dtype",
        both(
            weights("base", lambda t: t["model.norm.weight"].fill_(1e6)),
            config(out_dtype="float16"),
        ),
        "model.norm.weight",
        "out_dtype",
    ),
    right("huge rows in the donor", weights("donor", lambda t: t["lm_head.weight"].mul_(1e30))),
    right("tiny rows in the donor", weights("donor", lambda t: t["lm_head.weight"].mul_(1e-35))),
]
