// The O projection: merges the stretches of attention, multiplies, adds to the residual.
#pragma once

#include "../core/overlap.h"
#include "attention.h"

// The softmax of every query, merged from its stretches: elements of columns of [heads * head_dim].
template <uint32_t HEAD_DIM, int COLUMNS>
struct MergeStage {
    const Block& block;

    __device__ __forceinline__ float merged(uint32_t c, uint32_t e) const {
        const uint32_t splits = block.shared.pass.run[block.shared.pass.run_of[c]].splits;
        const uint64_t first = (static_cast<uint64_t>(c) * block.model.heads + e / HEAD_DIM) * OG_MAX_SPLITS;
        const float* softmax = block.state<float>(block.at.split_softmax) + 2 * first;
        const float* sums = block.state<float>(block.at.split_sums) + first * HEAD_DIM + e % HEAD_DIM;
        float maximum = NO_SCORE;
#pragma unroll 1
        for (uint32_t split = 0; split < splits; ++split) maximum = fmaxf(maximum, softmax[2 * split]);
        float sum = 0.0f, weight = 0.0f;
#pragma unroll 2
        for (uint32_t split = 0; split < splits; ++split) {
            const float correction = exp2f(softmax[2 * split] - maximum);
            sum = fmaf(correction, sums[split * HEAD_DIM], sum);
            weight = fmaf(correction, softmax[2 * split + 1], weight);
        }
        return sum / weight;
    }

    static constexpr bool SCALES = false;

    __device__ __forceinline__ void fill(uint32_t begin, uint32_t end) const {
        const uint32_t tile = block.arguments.tile;
#pragma unroll 1
        for (uint32_t i = block.thread; i < padded_to_chunk(end - begin); i += block.threads) {
            const uint32_t e = begin + i;
#pragma unroll 1
            for (int c = 0; c < COLUMNS; ++c) {
                const bool there = e < block.q_size() && static_cast<uint32_t>(c) < block.columns();
                block.work[c * tile + tile_index(i)] = there ? merged(c, e) : 0.0f;
            }
        }
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
            residual[static_cast<uint64_t>(c) * hidden + first + row + r] += sums[r];
        }
    };
    product.run(block, batch, first, MergeStage<HEAD_DIM, COLUMNS>{block}, finish);
    return true;
}
