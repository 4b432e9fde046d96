// RMSNorm (arXiv 1910.07467) as the input of a product, computed redundantly by every block.
//
// The scale of a column, 1 / sqrt(mean(x^2) + eps), is the same for all its elements, so the product
// is taken of x * weight, and its sums are scaled: no second pass over x.
#pragma once

#include "product.h"

// The residual stream: element `e` of column `c`.
struct Residual {
    const float* residual; // [columns][stride]
    uint32_t stride;

    __device__ __forceinline__ float operator()(uint32_t c, uint32_t e) const { return residual[static_cast<uint64_t>(c) * stride + e]; }
    // Elements e to e + 3.
    __device__ __forceinline__ float4 four(uint32_t c, uint32_t e) const { return load_four(residual + static_cast<uint64_t>(c) * stride + e); }
};

// The same with the O projections of the KV heads added (fused phases).
struct ResidualWithHeads {
    Residual residual;
    const float* head_outputs; // [kv_heads][columns][stride]
    uint32_t kv_heads;
    uint32_t columns;

    __device__ __forceinline__ float operator()(uint32_t c, uint32_t e) const {
        float value = residual(c, e);
#pragma unroll 4
        for (uint32_t head = 0; head < kv_heads; ++head) {
            value += head_outputs[(static_cast<uint64_t>(head) * columns + c) * residual.stride + e];
        }
        return value;
    }
    __device__ __forceinline__ float4 four(uint32_t c, uint32_t e) const {
        float4 values = residual.four(c, e);
#pragma unroll 4
        for (uint32_t head = 0; head < kv_heads; ++head) {
            const float4 more = load_four(head_outputs + (static_cast<uint64_t>(head) * columns + c) * residual.stride + e);
            values = make_float4(values.x + more.x, values.y + more.y, values.z + more.z, values.w + more.w);
        }
        return values;
    }
};

__device__ __forceinline__ Residual residual_of(const Block& block) {
    return {block.state<float>(block.at.residual), block.model.hidden_stride};
}

// What the MLP reads and adds to.
template <bool FUSED>
__device__ __forceinline__ auto residual_before_mlp(const Block& block) {
    if constexpr (FUSED) {
        const float* head_outputs = block.state<float>(block.at.head_outputs);
        return ResidualWithHeads{residual_of(block), head_outputs, block.model.kv_heads, block.at.columns};
    } else {
        return residual_of(block);
    }
}

// The scale of column `c` from the sums of squares of every warp, by all lanes of a warp together. NaN or infinity
// if the sum is.
__device__ __forceinline__ float norm_scale(const Block& block, uint32_t c) {
    const float sum = lanes_sum(block.lane() < block.warps() ? block.shared.squares[block.lane()][c] : 0.0f);
    // An infinite sum would make a scale of 0 and hide itself.
    if (!isfinite(sum)) return sum;
    return 1.0f / sqrtf(sum / static_cast<float>(block.model.hidden) + block.model.norm_eps);
}

// Fills x with weighted residuals, tile by tile, and sums their squares.
template <int COLUMNS, class Input>
struct NormStage {
    const Block& block;
    const Input input;
    const float* weight; // [hidden], zeros up to the stride
    float squares[COLUMNS] = {};
    static constexpr bool SCALES = true;

    __device__ __forceinline__ NormStage(const Block& block, const Input& input, const float* weight)
        : block(block), input(input), weight(weight) {}

    __device__ __forceinline__ void fill(uint32_t begin, uint32_t end) {
        const auto read = [&](uint32_t c, uint32_t e) { return input.four(c, e); };
        const auto read_weight = [&](uint32_t e) { return load_four(weight + e); };
        const auto take = [&](uint32_t c, const float4& x, const float4& w) {
            squares[c] = fmaf(x.x, x.x, fmaf(x.y, x.y, fmaf(x.z, x.z, fmaf(x.w, x.w, squares[c]))));
            return make_float4(x.x * w.x, x.y * w.y, x.z * w.z, x.w * w.w);
        };
        fill_tile<COLUMNS>(block, begin, end, block.model.hidden_stride, read, read_weight, take);
        // So far: the last tile leaves the sums of all.
        float sums[COLUMNS];
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) sums[c] = squares[c];
        lanes_sums<WARP>(sums);
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
            if (block.lane() == 0) block.shared.squares[block.warp()][c] = sums[c];
        }
    }

    __device__ __forceinline__ float scale(uint32_t c) const { return norm_scale(block, c); }
};

// Notes the columns whose scale is not finite, as norm `norm` of the pass. By the thread that wrote them.
__device__ __forceinline__ void check_norm(const Block& block, uint32_t norm) {
    if (!block.is_first_thread()) return;
#pragma unroll 1
    for (uint32_t c = 0; c < block.columns(); ++c) {
        if (!isfinite(block.shared.scale[c])) block.note_not_finite(norm, c);
    }
}

// What one block computed for all (variant block0_norm): already scaled.
template <int COLUMNS>
__device__ __forceinline__ VectorStage<COLUMNS> normed_stage(const Block& block) {
    return {block, block.state<float>(block.at.normed), block.model.hidden_stride};
}
