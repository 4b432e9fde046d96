// The embedding of every column's token: the first value of the residual stream.
#pragma once

#include "../core/bf16.h"
#include "../core/block.h"

PHASE void embed_phase() {
    const Block block;
    const uint32_t hidden = block.model.hidden;
    const uint16_t* embedding = block.weights<uint16_t>(block.model.embedding);
    float* residual = block.state<float>(block.at.residual);
    const uint32_t elements = block.columns() * hidden;
#pragma unroll 1
    for (uint32_t i = block.index * block.threads + block.thread; i < elements; i += block.blocks * block.threads) {
        const uint32_t c = i / hidden, e = i % hidden;
        const uint64_t row = block.shared.control.column[c].token;
        residual[static_cast<uint64_t>(c) * block.model.hidden_stride + e] = bf16_to_float(embedding[row * block.model.hidden_stride + e]);
    }
}
