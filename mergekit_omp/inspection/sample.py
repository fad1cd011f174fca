"""A built-in sample of texts, and what tokenizers make of it: tokens, losses, copied rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool
from transformers import PreTrainedTokenizerBase

SAMPLES: Mapping[str, str] = MappingProxyType(
    {
        "English": (
            "The lighthouse keeper climbed the stairs every evening, wrote down the weather and "
            "waited for the ships. Nobody had asked him to count the gulls, but he did that too: "
            "a steady habit, he thought, is worth more than a good memory. When the storm finally "
            "came, it was the notebook that people remembered him for."
        ),
        "Code": (
            "def moving_average(values: list[float], width: int = 3) -> list[float]:\n"
            '    """Mean of each window of `width` values."""\n'
            "    if width < 1:\n"
            '        raise ValueError(f"width is {width}, must be at least 1")\n'
            "    return [\n"
            "        sum(values[i : i + width]) / width\n"
            "        for i in range(len(values) - width + 1)\n"
            "    ]\n\n"
            "for (let i = 0; i < rows.length; i++) { total += rows[i].price * 1.19; }\n"
        ),
        "Numbers": (
            "12 + 7 = 19; 480 * 25 = 12000; 3.14159 / 2 = 1.570795. On 2024-06-30 at 17:45 the "
            "meter showed 1234567 kWh, up from 1198042. Call 555-0142, pay 1,299.95 by 15/08, "
            "room 404, 98.6 degrees, 0xFF, 1e-6, 65536 bytes, 2.718281828."
        ),
        "German": (
            "Am Morgen fuhr die Straßenbahn fast leer durch die Vorstadt. Die Fahrgäste schwiegen, "
            "nur ein Kind erklärte seiner Großmutter, wie man aus Pappe ein Segelflugzeug baut. "
            "Später würde niemand mehr wissen, worüber es gesprochen hatte, aber alle erinnerten "
            "sich an die Begeisterung in seiner Stimme."
        ),
        "Chinese": (
            "清晨的市场已经很热闹，卖菜的老人把青菜摆得整整齐齐。一个年轻人停下来问价钱，老人笑着说："
            "今天的豆腐最新鲜，昨天刚做的。他买了两块豆腐和一把葱，想起小时候跟着外婆来这里的日子。"
            "那时候河上还有一座木桥，雨天走起来有点滑。"
        ),
        "Arabic": (
            "في المساء يجتمع الجيران أمام البيت القديم ويتحدثون عن أخبار اليوم. قالت الجدة إن المطر "
            "سيأتي قبل نهاية الأسبوع، فضحك الأطفال لأنها تقول ذلك كل مرة. لكن السماء كانت صافية "
            "والهواء دافئا، وبقي الجميع يشربون الشاي حتى وقت متأخر."
        ),
        "Hindi": (
            "गाँव के स्कूल में आज मेला लगा था। बच्चों ने अपने हाथ से बने खिलौने दिखाए और शिक्षक ने "
            "सबको मिठाई बाँटी। शाम को बारिश शुरू हुई, तो सब लोग बरामदे में बैठकर पुरानी कहानियाँ "
            "सुनने लगे। किसी ने कहा कि अगले साल नदी के किनारे मेला लगेगा।"
        ),
        "Emoji": (
            "Party tonight 🎉🎉 bring snacks 🍕🥗 and good mood 😄👍🏽 — my family 👨‍👩‍👧 says hi ❤️🙏 "
            "see you at 8 🕗🚀 weather: ☀️🌧️🌈 team 🇩🇪🇯🇵🇧🇷 won 🏆⚽🔥"
        ),
    }
)
"""Sample texts by kind; written for this file."""


@dataclass(frozen=True)
class Reading:
    """What one tokenizer makes of one text."""

    bytes: int
    """Length of the text in UTF-8."""
    ids: tuple[int, ...]
    unknown: int
    """How many of the ids are the unknown token: text that is lost."""
    altered: tuple[str, str] | None
    """A word and what the tokenizer makes of it, where decoding gives back another text."""

    @property
    def bytes_per_token(self) -> float | None:
        """None where some of the text is lost: an unknown token may stand for any length."""
        return None if self.unknown or not self.ids else self.bytes / len(self.ids)

    def share_of(self, rows: Bool[np.ndarray, "rows"]) -> float | None:
        """The share of its tokens whose row is one of `rows`; None where text is lost."""
        return None if self.unknown or not self.ids else float(rows[list(self.ids)].mean())


def read_samples(tokenizer: PreTrainedTokenizerBase) -> dict[str, Reading]:
    """Every sample through a tokenizer, without control tokens."""
    read = {}
    for kind, text in SAMPLES.items():
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        unknown = sum(i == tokenizer.unk_token_id for i in ids)
        altered = None if unknown else _altered(text, tokenizer.decode(ids))
        read[kind] = Reading(len(text.encode()), tuple(ids), unknown, altered)
    return read


def _altered(text: str, decoded: str) -> tuple[str, str] | None:
    """The first word that came back as another; spaces may differ (WordPiece drops them)."""
    rest = re.sub(r"\s+", "", decoded)
    for word in text.split():
        if not rest.startswith(word):
            return word, rest[: len(word)]
        rest = rest[len(word) :]
    return None
