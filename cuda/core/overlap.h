// What a block does while it waits for the phase before: it fetches the weights of the phase to come, which
// depend on nothing.
#pragma once

#include "barrier.h"
#include "product.h"

// Waits until all blocks are done with `before`, with the first weights of `product` on their way into `batch`.
// False if the launch was aborted.
// `norm`: the weights of the norm that the phase begins with, [hidden] f32, if it does.
template <int COLUMNS>
__device__ __forceinline__ bool wait_loading(const Block& block, const Product<COLUMNS>& product, Batch<COLUMNS>& batch, OgPhase before,
                                             uint32_t layer, const float* norm = nullptr) {
    const GridBarrier grid;
    const OgArguments& arguments = block.arguments;
    product.load(batch);
    if (norm != nullptr) prefetch(block, norm, block.model.hidden * sizeof(float));
    if (arguments.prefetch != 0) prefetch(block, product, arguments.prefetch);
    return grid.wait(before, layer);
}
