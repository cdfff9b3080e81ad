from __future__ import annotations

import platform

import pytest

from qcompress import doctor, processor
from qcompress.processor import int8_support


@pytest.mark.parametrize(
    ("features", "instructions", "fast", "words"),
    [
        (("avx2", "avx512f", "avx512_vnni", "amx_int8"), ("AVX512-VNNI", "AMX"), True, "faster than float32 here"),
        (("avx2", "avx_vnni"), ("AVX-VNNI",), True, "has AVX-VNNI"),
        (("asimd", "asimddp", "i8mm"), ("ARM dot products", "ARM int8 matrix products"), True, "faster"),
        (("asimd",), (), False, "can be slower than float32 here: "),
        (("avx2", "avx512f"), (), False, "slower than float32 here, and less exact"),
        ((), (), None, "not known"),
    ],
)
def test_what_int8_is_worth_depends_on_the_instructions(
    monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...], instructions: tuple[str, ...], fast: bool | None, words: str
) -> None:
    monkeypatch.setattr(processor, "features", lambda: features)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    found = int8_support()
    assert (found.instructions, found.fast) == (instructions, fast)
    assert words in found.sentence


def test_processors_of_apple_have_dot_products_though_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "features", lambda: ())
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert int8_support().fast


def test_doctor_says_it() -> None:
    found = doctor.diagnose()
    assert ("int8", int8_support().sentence) in list(found.rows())
    assert found.as_dict()["int8"] == int8_support().sentence
