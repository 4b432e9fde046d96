// The first half of the MLP: RMSNorm of the residual, gate and up rows side by side, SiLU(gate) * up.
#pragma once

#include "../core/overlap.h"
#include "../core/rms_norm.h"

// FUSED: the O projections of the KV heads are still to be added to the residual. NORMED: one block has
// computed the norm for all.
template <int COLUMNS, bool NORMED, bool FUSED>
PHASE bool gate_up_phase(uint32_t layer, OgPhase before) {
    const Block block;
    const Share share = block.shared.share[OG_PHASE_GATE_UP];
    const uint32_t first = share.first; // pair
    const uint32_t stride = block.model.hidden_stride;
    const uint16_t* matrix = block.layer_weights<uint16_t>(layer, block.model.gate_up) + static_cast<uint64_t>(first) * ROWS * stride;
    Product<COLUMNS> product(block, matrix, share.count * ROWS, stride, stride, block.arguments.gate_up_segments);
    Batch<COLUMNS> batch;
    const float* norm = block.layer_weights<float>(layer, block.model.post_attention_norm);
    if (!wait_loading(block, product, batch, before, layer, norm)) return false;

    float* activated = block.state<float>(block.at.activated);
    static_assert(ROWS == 2, "a group is a gate row and its up row");
    const auto finish = [&](uint32_t row, uint32_t c, const float (&sums)[ROWS]) {
        const float gate = sums[0], up = sums[1];
        activated[static_cast<uint64_t>(c) * block.model.intermediate_stride + first + row / ROWS] = gate / (1.0f + expf(-gate)) * up;
    };
    if constexpr (NORMED) {
        product.run(block, batch, first * ROWS, normed_stage<COLUMNS>(block), finish);
    } else {
        auto residual = residual_before_mlp<FUSED>(block);
        NormStage<COLUMNS, decltype(residual)> stage(block, residual, norm);
        product.run(block, batch, first * ROWS, stage, finish);
        check_norm(block, 2 * layer + 1);
    }
    return true;
}
