// The O projection: merges the stretches of attention, multiplies, adds to the residual.
#pragma once

#include "../core/overlap.h"
#include "attention.h"

// The softmax of every query, merged from its stretches: elements of columns of [heads * head_dim].
template <uint32_t HEAD_DIM, int COLUMNS>
struct MergeStage {
    const Block& block;

    static constexpr bool SCALES = false;

    // Elements e to e + 3 of column c.
    __device__ __forceinline__ float4 merged(uint32_t c, uint32_t e) const {
        // Splits whose loads are under way together.
        constexpr int TOGETHER = 4;
        const uint32_t splits = block.shared.pass.run[block.shared.pass.run_of[c]].splits;
        const uint64_t first = (static_cast<uint64_t>(c) * block.model.heads + e / HEAD_DIM) * OG_MAX_SPLITS;
        const float2* softmax = block.state<float2>(block.at.split_softmax) + first; // maximum, weight
        const float* sums = block.state<float>(block.at.split_sums) + first * HEAD_DIM + e % HEAD_DIM;
        float maximum = NO_SCORE, weight = 0.0f;
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 1
        for (uint32_t begin = 0; begin < splits; begin += TOGETHER) {
            float2 part[TOGETHER];
            float4 values[TOGETHER];
#pragma unroll
            for (uint32_t i = 0; i < TOGETHER; ++i) {
                const bool there = begin + i < splits;
                part[i] = there ? softmax[begin + i] : make_float2(NO_SCORE, 0.0f);
                values[i] = there ? load_four(sums + (begin + i) * HEAD_DIM) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            }
            float largest = maximum;
#pragma unroll
            for (uint32_t i = 0; i < TOGETHER; ++i) largest = fmaxf(largest, part[i].x);
            const float before = exp2f(maximum - largest);
            maximum = largest;
            weight *= before;
            sum = make_float4(sum.x * before, sum.y * before, sum.z * before, sum.w * before);
#pragma unroll
            for (uint32_t i = 0; i < TOGETHER; ++i) {
                const float correction = exp2f(part[i].x - largest);
                weight = fmaf(correction, part[i].y, weight);
                sum.x = fmaf(correction, values[i].x, sum.x);
                sum.y = fmaf(correction, values[i].y, sum.y);
                sum.z = fmaf(correction, values[i].z, sum.z);
                sum.w = fmaf(correction, values[i].w, sum.w);
            }
        }
        return make_float4(sum.x / weight, sum.y / weight, sum.z / weight, sum.w / weight);
    }

    __device__ __forceinline__ void fill(uint32_t begin, uint32_t end) const {
        const auto read = [&](uint32_t c, uint32_t e) { return merged(c, e); };
        fill_tile<COLUMNS>(block, begin, end, block.q_size(), read);
    }
};

template <uint32_t HEAD_DIM, int COLUMNS>
PHASE bool output_phase(uint32_t layer, OgPhase before) {
    const Block block;
    const Share share = block.shared.share[OG_PHASE_OUTPUT];
    const uint32_t first = share.first * ROWS;
    const uint32_t stride = block.model.q_stride;
    const uint32_t hidden = block.model.hidden;
    const uint16_t* matrix = block.layer_weights<uint16_t>(layer, block.model.output) + static_cast<uint64_t>(first) * stride;
    Product<COLUMNS> product(block, matrix, Block::rows_of(share, hidden), stride, stride, block.arguments.output_segments);
    Batch<COLUMNS> batch;
    if (!wait_loading(block, product, batch, before, layer)) return false;

    float* residual = block.state<float>(block.at.residual);
    const auto finish = [&](uint32_t row, uint32_t c, const float (&sums)[ROWS]) {
        for (uint32_t r = 0; r < ROWS && first + row + r < hidden; ++r) {
            residual[static_cast<uint64_t>(c) * block.model.hidden_stride + first + row + r] += sums[r];
        }
    };
    product.run(block, batch, first, MergeStage<HEAD_DIM, COLUMNS>{block}, finish);
    return true;
}
