//! What names in traces of PyTorch mean: operators, kernels, and calls of the CUDA and HIP runtimes.

use super::profile::Group;
use super::pytorch::Category;

/// What an event is for; `None` if its name says nothing, and it counts as part of what it ran within.
pub fn group(category: Category, name: &str) -> Option<Group> {
    match category {
        Category::Operator => operator(name),
        Category::Runtime => runtime(name),
        Category::Kernel => kernel(name),
        Category::Memory => Some(Group::Copies),
        Category::Step => None,
    }
}

/// Operators, by the names under which PyTorch registers them.
fn operator(name: &str) -> Option<Group> {
    let name = name.strip_prefix("aten::").unwrap_or(name);
    let name = name.trim_start_matches('_');
    if name.contains("attention") || name.contains("flash_attn") {
        return Some(Group::Attention);
    }
    Some(match name {
        "linear" | "matmul" | "mm" | "addmm" | "bmm" | "baddbmm" | "addmv" | "mv" | "einsum"
        | "scaled_mm" | "int_mm" | "weight_int4pack_mm" => Group::MatrixProducts,
        "cat" | "concat" | "concatenate" | "stack" | "hstack" | "vstack" => Group::Concatenation,
        "copy_" | "to" | "to_copy" | "clone" | "contiguous" | "pin_memory" => Group::Copies,
        "embedding" => Group::Embedding,
        "layer_norm" | "native_layer_norm" | "rms_norm" | "fused_rms_norm" => Group::Norms,
        "argmax" | "multinomial" | "topk" | "sort" | "cumsum" | "exponential_" => Group::Sampling,
        // The host reads a number of a tensor: on a device that waits for all before it.
        "item" | "local_scalar_dense" | "is_nonzero" | "equal" => Group::Waiting,
        _ => return None,
    })
}

/// Kernels, by parts of the names that libraries give them.
fn kernel(name: &str) -> Option<Group> {
    let has = |parts: &[&str]| {
        let name = name.to_ascii_lowercase();
        parts.iter().any(|part| name.contains(part))
    };
    if has(&["fmha", "flash", "attention", "sdpa", "mha_", "attn"]) {
        Some(Group::Attention)
    } else if has(&["catarray"]) {
        Some(Group::Concatenation)
    } else if has(&[
        "gemm", "gemv", "cutlass", "cublas", "nvjet", "xmma", "matmul", "splitk",
    ]) {
        Some(Group::MatrixProducts)
    } else if has(&["layer_norm", "layernorm", "rms_norm", "rmsnorm"]) {
        Some(Group::Norms)
    } else if has(&["direct_copy", "copy_kernel", "memcpy"]) {
        Some(Group::Copies)
    } else if has(&["argmax", "multinomial", "topk", "radixsort", "sort"]) {
        Some(Group::Sampling)
    } else if has(&["embedding", "indexselect"]) {
        Some(Group::Embedding)
    } else {
        None
    }
}

/// Calls of the runtimes and drivers.
fn runtime(name: &str) -> Option<Group> {
    let call = ["cuda", "cu", "hip"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))?;
    if call.contains("Launch") {
        Some(Group::Launches)
    } else if call.contains("Synchronize") {
        Some(Group::Waiting)
    } else {
        None
    }
}

/// Whether a copy's name tells its direction ("Memcpy DtoH (Device -> Pageable)"): then that, without the
/// kinds of memory.
pub fn direction(name: &str) -> &str {
    match name.split_once(" (") {
        Some((direction, _)) if name.starts_with("Mem") => direction,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_what_pytorch_means_by_them() {
        use Category::{Kernel, Memory, Operator, Runtime};
        for (category, name, expected) in [
            (
                Operator,
                "aten::scaled_dot_product_attention",
                Some(Group::Attention),
            ),
            (
                Operator,
                "aten::_scaled_dot_product_flash_attention_for_cpu",
                Some(Group::Attention),
            ),
            (Operator, "aten::linear", Some(Group::MatrixProducts)),
            (Operator, "aten::cat", Some(Group::Concatenation)),
            (Operator, "aten::_to_copy", Some(Group::Copies)),
            (Operator, "aten::copy_", Some(Group::Copies)),
            (Operator, "aten::_local_scalar_dense", Some(Group::Waiting)),
            (Operator, "aten::mul", None),
            (
                Kernel,
                "void at::native::(anonymous namespace)::CatArrayBatchedCopy_aligned16_contig<...>",
                Some(Group::Concatenation),
            ),
            (
                Kernel,
                "fmha_cutlassF_bf16_aligned_64x128_rf_sm80",
                Some(Group::Attention),
            ),
            (
                Kernel,
                "void pytorch_flash::flash_fwd_splitkv_kernel<...>",
                Some(Group::Attention),
            ),
            (
                Kernel,
                "nvjet_tst_64x8_64x16_4x1_v_bz_TNT",
                Some(Group::MatrixProducts),
            ),
            (
                Kernel,
                "void gemv2T_kernel_val<...>",
                Some(Group::MatrixProducts),
            ),
            (
                Kernel,
                "void at::native::elementwise_kernel<128, 4, at::native::direct_copy_kernel_cuda>",
                Some(Group::Copies),
            ),
            (
                Kernel,
                "void at::native::vectorized_elementwise_kernel<4, MulFunctor>",
                None,
            ),
            (Runtime, "cudaLaunchKernel", Some(Group::Launches)),
            (Runtime, "cudaLaunchKernelExC", Some(Group::Launches)),
            (Runtime, "cuLaunchKernel", Some(Group::Launches)),
            (Runtime, "cudaGraphLaunch", Some(Group::Launches)),
            (Runtime, "hipModuleLaunchKernel", Some(Group::Launches)),
            (Runtime, "cudaStreamSynchronize", Some(Group::Waiting)),
            (Runtime, "cudaMemcpyAsync", None),
            (
                Memory,
                "Memcpy DtoH (Device -> Pageable)",
                Some(Group::Copies),
            ),
        ] {
            assert_eq!(group(category, name), expected, "{name}");
        }
    }

    #[test]
    fn copies_are_told_apart_by_direction() {
        assert_eq!(direction("Memcpy DtoH (Device -> Pageable)"), "Memcpy DtoH");
        assert_eq!(direction("Memcpy HtoD (Pinned -> Device)"), "Memcpy HtoD");
        assert_eq!(direction("Memset (Device)"), "Memset");
        assert_eq!(direction("aten::copy_"), "aten::copy_");
        assert_eq!(direction("void kernel<int> (x)"), "void kernel<int> (x)");
    }
}
