// Makes cases for the kernels of self_test.cu, and checks what came out of them:
//
//   self_test make KERNEL BLOCKS THREADS STEPS epoch|cooperative LAUNCHES STALL_EPOCH CASE
//   self_test verify CASE RESULT     of the kernel `everything`: all threads found what they should
//   self_test stalled CASE RESULT    of the same: the watchdog reported block 1, at step 1, phase qkv
//
// STALL_EPOCH is the grid barrier, from 1, at which block 1 never arrives; 0: it always does.
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <fstream>
#include <string>
#include <vector>

#include "case_file.h"
#include "self_test.h"

namespace {

constexpr uint32_t RING_CAPACITY = 4;
constexpr uint32_t STOP_MASK = 5;

[[noreturn, gnu::format(printf, 1, 2)]] void fail(const char* format, ...) {
    va_list values;
    va_start(values, format);
    fputs("self_test: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    va_end(values);
    exit(1);
}

void expect(const char* what, uint64_t found, uint64_t expected) {
    if (found == expected) return;
    fail("%s is %llu instead of %llu", what, static_cast<unsigned long long>(found),
         static_cast<unsigned long long>(expected));
}

// Where things lie in the state, for one grid.
struct Layout {
    OgState at{};
    uint64_t bytes = 0;

    Layout(uint32_t blocks, uint32_t threads) {
        at.barrier = take(sizeof(OgBarrier));
        at.arrivals = take(blocks * sizeof(uint32_t));
        at.residual = take(blocks * threads * sizeof(uint32_t));
        at.normed = take(blocks * sizeof(float));
        at.qkv = take(blocks * threads * sizeof(SelfTestResult));
        at.histograms = take(SELF_TEST_BUCKETS * sizeof(uint64_t));
    }

private:
    uint64_t take(uint64_t size) {
        const uint64_t offset = bytes;
        bytes += (size + OG_TENSOR_ALIGNMENT - 1) / OG_TENSOR_ALIGNMENT * OG_TENSOR_ALIGNMENT;
        return offset;
    }
};

constexpr uint64_t MAILBOX_BYTES = sizeof(OgMailbox) + (RING_CAPACITY - 1) * sizeof(uint64_t);
constexpr uint64_t WEIGHTS_BYTES = OG_TENSOR_ALIGNMENT;

void write(std::ofstream& file, const void* data, size_t bytes) {
    file.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
}

void make(char** words) {
    const auto number = [&](int word) { return static_cast<uint32_t>(strtoul(words[word], nullptr, 10)); };
    OgCaseStep launch{};
    snprintf(launch.kernel, sizeof launch.kernel, "%s", words[0]);
    launch.kind = OG_CASE_LAUNCH;
    launch.blocks = number(1);
    launch.threads = number(2);
    launch.shared_bytes = SELF_TEST_SHARED;
    launch.payload_bytes = sizeof(OgArguments);
    const uint32_t launches = number(5);

    const Layout layout(launch.blocks, launch.threads);
    OgArguments arguments{};
    arguments.at = layout.at;
    arguments.max_steps = number(3);
    arguments.barrier = words[4] == std::string("epoch") ? OG_BARRIER_EPOCH : OG_BARRIER_COOPERATIVE;
    arguments.ring_capacity = RING_CAPACITY;
    arguments.stall_block = 1;
    arguments.stall_epoch = number(6);
    arguments.watchdog_ms = arguments.stall_epoch == 0 ? 0 : 200;

    // The host tells the kernel something between the memory's images and the first launch.
    OgCaseStep tell{};
    tell.kind = OG_CASE_WRITE_MAILBOX;
    tell.offset = offsetof(OgMailbox, stop_mask);
    tell.payload_bytes = sizeof STOP_MASK;

    const OgCase header{OG_CASE_MAGIC, WEIGHTS_BYTES, layout.bytes,       MAILBOX_BYTES,
                        0,             launches + 1,  sizeof(OgArguments)};
    const std::vector<char> zeros(WEIGHTS_BYTES + layout.bytes + MAILBOX_BYTES);
    std::ofstream file(words[7], std::ios::binary);
    write(file, &header, sizeof header);
    write(file, zeros.data(), zeros.size());
    write(file, &tell, sizeof tell);
    write(file, &STOP_MASK, sizeof STOP_MASK);
    for (uint32_t i = 0; i < launches; ++i) {
        write(file, &launch, sizeof launch);
        write(file, &arguments, sizeof arguments);
    }
    file.close();
    if (!file) fail("can't write %s", words[7]);
}

std::vector<char> read_file(const char* path) {
    std::ifstream file(path, std::ios::binary);
    std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    if (bytes.empty()) fail("can't read %s", path);
    return bytes;
}

// A case and what it left in memory.
struct Outcome {
    OgCaseStep launch;
    OgArguments arguments;
    uint32_t launches;
    std::vector<char> state;
    std::vector<char> mailbox;

    Outcome(const char* case_path, const char* result_path) : state(read_file(result_path)) {
        const std::vector<char> made = read_file(case_path);
        OgCase header;
        memcpy(&header, made.data(), sizeof header);
        launches = static_cast<uint32_t>(header.steps) - 1;
        const size_t step = made.size() - sizeof launch - sizeof arguments;
        memcpy(&launch, made.data() + step, sizeof launch);
        memcpy(&arguments, made.data() + step + sizeof launch, sizeof arguments);
        expect("the size of the result", state.size(), header.state_bytes + header.mailbox_bytes);
        mailbox.assign(state.begin() + static_cast<ptrdiff_t>(header.state_bytes), state.end());
    }

    template <class T>
    T at(const std::vector<char>& piece, uint64_t offset, uint64_t index = 0) const {
        T value;
        memcpy(&value, piece.data() + offset + index * sizeof value, sizeof value);
        return value;
    }
};

void verify(const Outcome& outcome) {
    const uint32_t blocks = outcome.launch.blocks, threads = outcome.launch.threads, all = blocks * threads;
    const uint32_t steps = outcome.arguments.max_steps;
    std::vector<SelfTestResult> expected(all);
    std::vector<uint64_t> histogram(SELF_TEST_BUCKETS);
    std::vector<uint64_t> ring(RING_CAPACITY);
    for (uint32_t launch = 0; launch < outcome.launches; ++launch) {
        for (uint32_t step = 0; step < steps; ++step) {
            const auto value_of = [&](uint32_t index) { return self_test_value(step, (index + threads) % all); };
            uint32_t sum = 0;
            for (uint32_t index = 0; index < all; ++index) {
                sum += value_of(index) % 16;
                ++histogram[value_of(index) % SELF_TEST_BUCKETS];
            }
            for (uint32_t index = 0; index < all; ++index) {
                const uint32_t block = index / threads * threads, warp = index / 32 * 32, lane = index % 32;
                SelfTestResult& one = expected[index];
                one.values += value_of(index);
                one.sum += sum;
                one.histogram += histogram[index % threads % SELF_TEST_BUCKETS];
                one.words += value_of(block + (((index - block) ^ 1) + 33) % threads);
                one.shuffles += value_of(warp + (lane + 5) % 32) + value_of(warp + (lane ^ 16));
                for (uint32_t i = 0; i < 8; ++i) one.shuffles += value_of(warp + lane / 8 * 8 + i) % 16;
                one.shuffles += (lane ^ 3) + step;
            }
            ring[step % RING_CAPACITY] = uint64_t{step + 1} << 32 | value_of(0);
        }
    }
    expected[0].stop_mask = steps == 0 ? 0 : STOP_MASK;
    for (uint32_t index = 0; index < all; ++index) {
        const auto found = outcome.at<SelfTestResult>(outcome.state, outcome.arguments.at.qkv, index);
        const SelfTestResult& one = expected[index];
        if (memcmp(&found, &one, sizeof one) == 0) continue;
        fail("thread %u found values %u (expected %u), sum %u (%u), words %u (%u), shuffles %u (%u), "
             "histogram %llu (%llu), stop mask %u (%u)",
             index, found.values, one.values, found.sum, one.sum, found.words, one.words, found.shuffles, one.shuffles,
             static_cast<unsigned long long>(found.histogram), static_cast<unsigned long long>(one.histogram),
             found.stop_mask, one.stop_mask);
    }
    for (uint32_t i = 0; i < RING_CAPACITY; ++i) {
        expect("an entry of the ring", outcome.at<uint64_t>(outcome.mailbox, offsetof(OgMailbox, ring), i), ring[i]);
    }
    const auto barrier = outcome.at<OgBarrier>(outcome.state, outcome.arguments.at.barrier);
    // Cooperative groups keep their own count.
    const bool counts = outcome.arguments.barrier == OG_BARRIER_EPOCH;
    expect("the epoch", barrier.epoch, counts ? 2 * steps * outcome.launches : 0);
    expect("arrivals", barrier.arrived, barrier.epoch * blocks);
    expect("the next first arrival", barrier.first_arrival, barrier.arrived);
}

void stalled(const Outcome& outcome) {
    const auto report = outcome.at<OgReport>(outcome.mailbox, offsetof(OgMailbox, report));
    expect("the status", report.status, OG_STATUS_STALLED);
    expect("the block", report.block, 1);
    expect("the phase", report.phase, OG_PHASE_QKV);
    expect("the layer", report.layer, 1);
    const auto barrier = outcome.at<OgBarrier>(outcome.state, outcome.arguments.at.barrier);
    expect("the flag that tells all blocks to leave", barrier.abort, 1);
}

} // namespace

int main(int count, char** words) {
    const std::string what = count > 1 ? words[1] : "";
    if (what == "make" && count == 10) {
        make(words + 2);
    } else if (what == "verify" && count == 4) {
        verify(Outcome(words[2], words[3]));
    } else if (what == "stalled" && count == 4) {
        stalled(Outcome(words[2], words[3]));
    } else {
        fail("wrong use: see the top of self_test.cpp");
    }
}
