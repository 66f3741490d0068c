"""Kernels by their real names, shares and COR in its second meaning."""

import pytest

from qtrap_agents.analysis.kernels import class_of, is_fused, shares_of
from qtrap_agents.measures import KernelTime, PhaseProfile

SEEN = {
    "matrix product": (
        "void cutlass::device_kernel<cutlass::gemm::kernel::GemmUniversal<cute::tuple<int>, machete::MacheteCollectiveMma<cute>",
        "void marlin::Marlin<(long)1125899906909960, (long)256, (long)4>",
        "nvjet_sm90_hsh_384x8_64x4_2x1_v_bz_TNT",
        "void kgemm_4bit_inference_naive<__half, 128, 16>(int, int, int, __half*, unsigned char*, float*)",
        "void gemv2T_kernel_val<int, int, __half, __half, __half, float, 128, 16, 4, 4, false, true>",
        "sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize96x64x32_stage3_warpsize2x2x1_tensor16x8x16_kernel",
        "void cublasLt::splitKreduce_kernel<32, 16, int, float, __half, float, __half, false, false, false>",
        "void gemm_half_q_half_gptq_4bit_kernel<true, 8>",
        "_C::onednn_mm",
        "_C::weight_packed_linear",
        "_C::int4_scaled_mm_cpu",
        "aten::mm",
        "aten::addmm",
        "aten::linear",
        "void gemm_4bit_simt<__half, 1>(__half const*, unsigned char const*, float const*, unsigned int)",
    ),
    "dequantisation": (
        "void kDequantizeBlockwise<__half, 512, 64, 8, (DataType_t)2>(float*, unsigned char*, float*, __half*, int, int)",
        "void kdequant_mm_int32_fp16<4, 512>(int*, float*, float*, __half*, __half*, int, int, int)",
        "void kInt8VectorQuant<__half, 1024, 0>(__half*, signed char*, float*, float, int, int)",
        "vllm::awq::dequantize_weights(int*, __half*, int*, __half*, int, int)",
        "awq_dequantize_kernel",
        "vllm::gptq::reconstruct_exllama_4bit_kernel",
    ),
    "attention": (
        "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<flash::CollectiveMainloopFwdSm90<2>>>",
        "void vllm::reshape_and_cache_flash_kernel<unsigned short, unsigned short, (vllm::Fp8KVCacheDataType)0>",
        "void vllm::rotary_embedding_kernel<c10::Half, c10::Half, true>(long const*, c10::Half*)",
        "fmha_cutlassF_f16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel<cutlass::half_t>::Params)",
        "_C::cpu_attention_with_kv_cache",
        "_C::get_scheduler_metadata",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
    ),
    "other": (
        "void vllm::act_and_mul_kernel<c10::Half, __half2, &(c10::Half vllm::silu_kernel<c10::Half>(c10::Half const&))>",
        "std::enable_if<(((8)>(0)))&&vllm::_typeConvert<c10::Half>::exists, void>::type vllm::fused_add_rms_norm_kernel",
        "void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl_nocast<at::native::CUDAFunctor_add<c10::Half>>>",
        "Memset (Device)",
        "Memcpy HtoD (Pinned -> Device)",
        "aten::mul",
        "aten::cat",
    ),
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in SEEN.items() for name in names])
def test_kernels_by_their_names(kind: str, name: str) -> None:
    assert class_of(name) == kind


def test_products_that_unpack_on_the_way() -> None:
    fused = [name for name in SEEN["matrix product"] if is_fused(name)]
    assert fused == [SEEN["matrix product"][index] for index in (0, 1, 3, 7, 10, 14)]


def phase(repeat: int, kernels: dict[str, float], wall_s: float = 1.0) -> PhaseProfile:
    return PhaseProfile(
        arm="nf4",
        phase="prefill",
        device="cuda",
        concurrency=4,
        prompt_tokens=256,
        new_tokens=64,
        repeat=repeat,
        wall_s=wall_s,
        kernels=tuple(KernelTime(name=name, calls=1, time_s=time_s) for name, time_s in kernels.items()),
    )


def test_casting_over_products() -> None:
    """0.4 s of casting and 0.2 s of products: twice as long, two thirds of both."""
    (found,) = shares_of(phase(repeat, {"kDequantizeBlockwise": 0.4, "nvjet_a": 0.2, "flash": 0.2}) for repeat in range(3))
    assert found.unpacking == "separate"
    assert found.cor_kernel is not None
    assert found.cor_kernel.value == pytest.approx(2.0)
    assert found.cor_kernel.n == 3
    assert found.casting_share == pytest.approx(2 / 3)
    assert found.shares["dequantisation"].value == pytest.approx(0.5)
    assert found.busy is not None
    assert found.busy.value == pytest.approx(0.8)


def test_a_fused_product_has_no_cor() -> None:
    (found,) = shares_of([phase(0, {"void marlin::Marlin<1>": 0.4, "flash": 0.2})])
    assert (found.unpacking, found.cor_kernel, found.casting_share) == ("fused", None, None)


def test_dense_products_unpack_nothing() -> None:
    (found,) = shares_of([phase(0, {"nvjet_a": 0.4})])
    assert (found.unpacking, found.cor_kernel) == ("none", None)
    assert found.shares["matrix product"].value == pytest.approx(1.0)


def test_of_a_repeat_that_was_done_again_the_last_counts() -> None:
    (found,) = shares_of([phase(0, {"nvjet_a": 0.4}), phase(0, {"nvjet_a": 0.1, "flash": 0.1})])
    assert found.n == 1
    assert found.time_s["matrix product"] == pytest.approx(0.1)
