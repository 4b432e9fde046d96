// Guides: tables that say which tokens may come next in a request. Every block steps them alike.
#pragma once

#include "../core/block.h"

// Where a request's tables are.
struct Guide {
    const uint16_t* class_of; // [vocab]
    const uint16_t* next;     // those of the state that the request is in: [classes]
    const uint32_t* listed;   // the tokens that this state lists

    __device__ __forceinline__ Guide(const Block& block, const OgRequest& request)
        : class_of(block.state<uint16_t>(request.guide_class_of)),
          next(block.state<uint16_t>(request.guide_next) + static_cast<uint64_t>(request.guide_state) * request.guide_classes),
          listed(block.state<uint32_t>(request.guide_listed) + request.guide_first) {}

    // The state after `token`; 0 if it is not allowed.
    __device__ __forceinline__ uint32_t after(uint32_t token) const { return __ldg(next + __ldg(class_of + token)); }
    __device__ __forceinline__ bool allows(uint32_t token) const { return after(token) != 0; }
};

// Takes the guide of `request` on by `token`. One thread of each block.
__device__ __forceinline__ void advance_guide(const Block& block, OgRequest& request, uint32_t token) {
    request.guide_state = Guide(block, request).after(token);
    const OgGuideState& row = block.state<OgGuideState>(request.guide_rows)[request.guide_state];
    request.guide = row.kind;
    request.guide_first = row.first;
    request.guide_count = row.count;
}

// Whether logits decide about request `r`: it goes on, and not by a token that is forced.
__device__ __forceinline__ bool is_sampled(const Block& block, uint32_t r) {
    const OgRequest& request = block.shared.control.request[r];
    return request.stop == OG_STOP_NONE && request.guide != OG_GUIDE_FORCED;
}
