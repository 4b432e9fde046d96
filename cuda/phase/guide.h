// Guides: tables that say which tokens may come next in a request. Every block steps them alike.
#pragma once

#include "../core/block.h"

// Where a request's tables are.
struct Guide {
    const uint16_t* class_of; // [vocab]
    const uint16_t* steps;    // those of the state that the request is in: [classes]
    const uint32_t* listed;   // the tokens that this state lists
    uint32_t classes;
    uint32_t base;

    __device__ __forceinline__ Guide(const Block& block, const OgRequest& request)
        : class_of(block.state<uint16_t>(request.guide_class_of)),
          steps(block.state<uint16_t>(request.guide_steps) + request.guide_step),
          listed(block.state<uint32_t>(request.guide_listed) + request.guide_first),
          classes(request.guide_classes),
          base(request.guide_base) {}

    // The state after `token`; 0 if it is not allowed.
    __device__ __forceinline__ uint32_t after(uint32_t token) const {
        const uint32_t step = step_by(token);
        return step == 0 ? 0 : base + step;
    }
    __device__ __forceinline__ bool allows(uint32_t token) const { return step_by(token) != 0; }

private:
    // Most states end their steps early: what follows is not allowed.
    __device__ __forceinline__ uint32_t step_by(uint32_t token) const {
        const uint32_t token_class = __ldg(class_of + token);
        return token_class < classes ? __ldg(steps + token_class) : 0;
    }
};

// Takes the guide of `request` on by `token`. One thread of each block.
__device__ __forceinline__ void advance_guide(const Block& block, OgRequest& request, uint32_t token) {
    request.guide_state = Guide(block, request).after(token);
    const OgGuideState& row = block.state<OgGuideState>(request.guide_rows)[request.guide_state];
    request.guide = row.kind;
    request.guide_first = row.first;
    request.guide_count = row.count;
    request.guide_step = row.steps;
    request.guide_classes = row.classes;
    request.guide_base = row.base;
}

// Whether logits decide about request `r`: it goes on, and not by a token that is forced.
__device__ __forceinline__ bool is_sampled(const Block& block, uint32_t r) {
    const OgRequest& request = block.shared.control.request[r];
    return request.stop == OG_STOP_NONE && request.guide != OG_GUIDE_FORCED;
}
