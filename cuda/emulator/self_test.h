// What the kernels of self_test.cu and the program that checks them agree on.
#pragma once

#include <stdint.h>

#include "../abi.h"

constexpr unsigned SELF_TEST_BUCKETS = 16;
// Bytes of shared memory of a launch.
constexpr unsigned SELF_TEST_SHARED = OG_SHARED_FIXED + 4096;

// What a thread of the kernel `everything` found out, summed over steps.
struct SelfTestResult {
    uint64_t histogram;
    uint32_t values;
    uint32_t sum;
    uint32_t words;
    uint32_t shuffles;
    uint32_t stop_mask;
    uint32_t padding;
};

// What a thread writes in a step.
constexpr uint32_t self_test_value(uint32_t step, uint32_t thread) { return (step * 7919 + thread * 31) % 1000; }
