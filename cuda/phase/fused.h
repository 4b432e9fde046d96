// Phases as the variants divide them: by KV head, so that fewer barriers are needed.
#pragma once

#include "attention.h"
#include "output.h"
#include "qkv.h"

// Variant head_blocks: a block computes Q, K and V of a KV head and attends, with no barrier between; blocks
// beyond the number of KV heads have nothing to do.
template <uint32_t HEAD_DIM, int COLUMNS>
PHASE void head_blocks_phase(uint32_t layer) {
    const Block block;
    const uint32_t group_rows = block.group_size() * HEAD_DIM;
    const Attention<HEAD_DIM, COLUMNS> attention(block, layer);
    for (uint32_t kv_head = block.index; kv_head < block.model.kv_heads; kv_head += block.blocks) {
        const uint32_t key_rows = block.q_size() + kv_head * HEAD_DIM;
#pragma unroll 1
        for (uint32_t part = 0; part < 3; ++part) {
            const uint32_t first = part == 0 ? kv_head * group_rows : key_rows + (part - 1) * block.kv_size();
            Product<COLUMNS> product = qkv_rows<COLUMNS>(block, layer, first, part == 0 ? group_rows : HEAD_DIM, 1);
            Batch<COLUMNS> batch;
            product.load(batch);
            qkv_multiply<COLUMNS, false>(block, layer, first, product, batch);
            BLOCK_SYNC(); // x is free for the next, and the rows are there for all threads
        }
        attention.run_head(kv_head, true, [&](const auto& task) { attention.run_to_state(task); });
    }
}

// Variant fused_phases: the blocks of a KV head all attend for it, and each multiplies what it attended to
// with the head's columns of its part of O's rows. Who reads the residual next adds the heads' sums.
template <uint32_t HEAD_DIM, int COLUMNS>
struct AttentionOutput {
    const Block& block;
    const uint32_t layer;
    const uint32_t kv_heads;
    const uint32_t part, parts; // of O's rows

    __device__ AttentionOutput(const Block& block, uint32_t layer)
        : block(block),
          layer(layer),
          kv_heads(block.model.kv_heads),
          part(block.index / kv_heads),
          parts(block.blocks < kv_heads ? 1 : (block.blocks - block.index % kv_heads + kv_heads - 1) / kv_heads) {}

    __device__ __forceinline__ uint32_t first_head() const { return block.index % kv_heads; }
    __device__ __forceinline__ uint32_t group_size() const { return block.group_size() * HEAD_DIM; }

    __device__ __forceinline__ Share rows() const {
        const uint32_t groups = (block.model.hidden + ROWS - 1) / ROWS;
        const uint32_t first = groups * part / parts;
        return {first, groups * (part + 1) / parts - first};
    }

    __device__ __forceinline__ Product<COLUMNS> product(uint32_t kv_head) const {
        const uint32_t stride = block.model.q_stride;
        const uint16_t* matrix = block.layer_weights<uint16_t>(layer, block.model.output);
        matrix += static_cast<uint64_t>(rows().first) * ROWS * stride + kv_head * group_size();
        return {block, matrix, Block::rows_of(rows(), block.model.hidden), stride, group_size(), 1};
    }

    __device__ __forceinline__ void run_head(uint32_t kv_head, Product<COLUMNS>& product, Batch<COLUMNS>& batch) const {
        float* attended = block.work + block.arguments.attended_at; // [columns][group_size()]
        const Attention<HEAD_DIM, COLUMNS> attention(block, layer);
        attention.run_head(kv_head, part == 0, [&](const auto& task) {
            attention.run(task, [&](uint32_t query, uint32_t element, float sum, float, float weight) {
                const uint32_t column = task.run.first + query / block.group_size();
                attended[column * group_size() + query % block.group_size() * HEAD_DIM + element] = sum / weight;
            });
        });
        const uint32_t first = rows().first * ROWS;
        const uint32_t hidden = block.model.hidden;
        float* outputs = block.state<float>(block.at.head_outputs) + static_cast<uint64_t>(kv_head) * block.at.columns * block.model.hidden_stride;
        const auto finish = [&](uint32_t row, uint32_t c, const float (&sums)[ROWS]) {
            for (uint32_t r = 0; r < ROWS && first + row + r < hidden; ++r) {
                outputs[static_cast<uint64_t>(c) * block.model.hidden_stride + first + row + r] = sums[r];
            }
        };
        product.run(block, batch, 0, VectorStage<COLUMNS>{block, attended, group_size()}, finish);
    }
};

template <uint32_t HEAD_DIM, int COLUMNS>
PHASE bool attention_output_phase(uint32_t layer, OgPhase before) {
    const Block block;
    const AttentionOutput<HEAD_DIM, COLUMNS> fused(block, layer);
    Product<COLUMNS> product = fused.product(fused.first_head());
    Batch<COLUMNS> batch;
    if (!wait_loading(block, product, batch, before, layer)) return false;
    fused.run_head(fused.first_head(), product, batch);
    // Only where there are fewer blocks than KV heads:
    for (uint32_t kv_head = fused.first_head() + block.blocks; kv_head < block.model.kv_heads; kv_head += block.blocks) {
        BLOCK_SYNC(); // the last head's x
        product = fused.product(kv_head);
        product.load(batch);
        fused.run_head(kv_head, product, batch);
    }
    return true;
}
