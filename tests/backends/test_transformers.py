"""The in-process arm against transformers' own loader and its own generate."""

import asyncio
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from qtrap_agents.backends.factory import open_arm
from qtrap_agents.backends.transformers_arm import load_model
from qtrap_agents.backends.unpack import unpack_rows
from qtrap_agents.errors import ArmError, CompletionError
from qtrap_agents.types import Message, Sampling

from .conftest import ENGINE, Arms, answers, arm_of, question


def test_batch_equals_generate_one_by_one(arms: Arms, checkpoints: dict[str, Path]) -> None:
    completions = arms.run(answers(arms.open(arm_of(checkpoints, "fp16", "hf")), 12))
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["fp16"])
    model = AutoModelForCausalLM.from_pretrained(checkpoints["fp16"], dtype=torch.float32)
    for number, completion in enumerate(completions):
        chat = [{"role": "user", "content": question(number)[0].content}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        output = model.generate(**prompt, max_new_tokens=12, do_sample=False)
        assert tuple(output[0, prompt["input_ids"].shape[1] :].tolist()) == completion.token_ids
        assert completion.prompt_tokens == prompt["input_ids"].shape[1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("weights", ["sym", "asym"])
def test_unpacked_weights_equal_those_of_compressed_tensors(checkpoints: dict[str, Path], weights: str) -> None:
    from transformers import CompressedTensorsConfig

    ours = load_model(checkpoints[weights], torch.float32).state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(
        checkpoints[weights], dtype=torch.float32, quantization_config=CompressedTensorsConfig(run_compressed=False)
    ).state_dict()
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-6)
    baseline = load_model(checkpoints["fp16"], torch.float32).state_dict()
    error = (ours["model.layers.0.mlp.up_proj.weight"] - baseline["model.layers.0.mlp.up_proj.weight"]).abs()
    assert 0.001 < float(error.mean()) < 0.03


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_codes_of_any_width_come_back(bits: int) -> None:
    rows = torch.randint(0, 1 << bits, (5, 44), generator=torch.Generator().manual_seed(bits))
    packed = []
    for row in rows.tolist():
        stream = sum(code << (bits * index) for index, code in enumerate(row))
        words = [(stream >> (32 * word)) & 0xFFFFFFFF for word in range(math.ceil(44 * bits / 32))]
        packed.append([word - (1 << 32) if word >= 1 << 31 else word for word in words])
    assert torch.equal(unpack_rows(torch.tensor(packed, dtype=torch.int32), bits, 44), rows.float())


def test_identity_says_that_the_weights_were_unpacked(arms: Arms, checkpoints: dict[str, Path]) -> None:
    identity = arms.open(arm_of(checkpoints, "asym", "hf")).identity
    assert (identity.quantisation, identity.bits, identity.quantised_modules, identity.linear_modules) == ("awq", 4, 0, 14)
    assert "unpacked at load" in " ".join(identity.notes)


def test_endless_output_and_logprobs(arms: Arms, checkpoints: dict[str, Path]) -> None:
    arm = arms.open(arm_of(checkpoints, "fp16", "hf"))
    completion = arms.run(arm.complete(question(1), Sampling(max_tokens=64, logprobs=3)))
    assert (completion.finish_reason, completion.completion_tokens) == ("length", 64)
    assert completion.logprobs is not None
    for token, entry in zip(completion.token_ids, completion.logprobs, strict=True):
        assert (token, len(entry.top)) == (entry.token_id, 3)
        assert entry.logprob == pytest.approx(entry.top[0][1])


def test_sampling_depends_on_the_seed_and_not_on_the_batch(arms: Arms, checkpoints: dict[str, Path]) -> None:
    arm = arms.open(arm_of(checkpoints, "fp16", "hf"))
    sampling = Sampling(max_tokens=8, temperature=0.7, top_p=0.9, seed=3)
    crowd = arms.run(answers(arm, 8, sampling))
    assert arms.run(arm.complete(question(5), sampling)).token_ids == crowd[5].token_ids
    other = arms.run(arm.complete(question(5), sampling.model_copy(update={"seed": 4})))
    assert other.token_ids != crowd[5].token_ids


def test_too_long_prompt_fails_alone(arms: Arms, checkpoints: dict[str, Path]) -> None:
    arm = arms.open(arm_of(checkpoints, "fp16", "hf"))
    with pytest.raises(CompletionError, match="the model takes 255"):
        arms.run(arm.complete((Message(role="user", content="1 + " * 300),), Sampling()))


def test_nan_weights_are_named(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    async def enter() -> None:
        async with open_arm(arm_of(checkpoints, "nan", "hf"), ENGINE, tmp_path / "log"):
            pass

    with pytest.raises(ArmError, match="logits are not finite"):
        asyncio.run(enter())
