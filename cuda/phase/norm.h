// The norm as a phase of its own (variant block0_norm): one block computes it for all.
#pragma once

#include "../core/rms_norm.h"

// norm: its number in the pass; weight: [hidden].
template <int COLUMNS>
PHASE void norm_phase(uint32_t norm, const float* weight) {
    const Block block;
    if (block.index != 0) return;
    const Residual input = residual_of(block);
    const uint32_t hidden = block.model.hidden;
    float squares[COLUMNS] = {};
#pragma unroll 1
    for (uint32_t e = block.thread; e < hidden; e += block.threads) {
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
            const float value = static_cast<uint32_t>(c) < block.columns() ? input(c, e) : 0.0f;
            squares[c] = fmaf(value, value, squares[c]);
        }
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
        const float sum = lanes_sum(squares[c]);
        if (block.lane() == 0) block.shared.squares[block.warp()][c] = sum;
    }
    BLOCK_SYNC();
    float* normed = block.state<float>(block.at.normed);
#pragma unroll 1
    for (uint32_t c = 0; c < block.columns(); ++c) {
        const float scale = norm_scale(block, c);
        if (block.thread == 0) block.shared.scale[c] = scale;
#pragma unroll 1
        for (uint32_t e = block.thread; e < hidden; e += block.threads) {
            normed[static_cast<uint64_t>(c) * block.model.hidden_stride + e] = input(c, e) * scale * weight[e];
        }
    }
    check_norm(block, norm);
}
