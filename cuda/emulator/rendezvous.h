// Threads that wait for each other, in two halves: that they meet, and what of it a race detector
// sees. Every wait sleeps in the kernel of the operating system: with a hundred threads on a few
// cores, whoever spins keeps the others from arriving.
#pragma once

#include <linux/futex.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

#if defined(__SANITIZE_THREAD__)
#define ONEGRID_RACE_DETECTOR 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ONEGRID_RACE_DETECTOR 1
#endif
#endif
#ifndef ONEGRID_RACE_DETECTOR
#define ONEGRID_RACE_DETECTOR 0
#endif

// Of a function whose memory accesses, atomic ones too, ThreadSanitizer must not learn of: they are
// ordered, but what they order is the emulator's own and none of the kernel's.
#if !ONEGRID_RACE_DETECTOR
#define UNSEEN
#elif defined(__clang__)
#define UNSEEN __attribute__((noinline, disable_sanitizer_instrumentation))
#else
#define UNSEEN __attribute__((noinline, no_sanitize("thread")))
#endif

namespace emulator {

// Sleeps while `word` is `value`: until a wake, for `timeout` at most; or for no reason.
inline void futex_wait(const uint32_t* word, uint32_t value, const timespec* timeout = nullptr) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, timeout, nullptr, 0);
}

inline void futex_wake_all(const uint32_t* word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 0x7fffffff, nullptr, nullptr, 0);
}

// Makes threads meet, again and again. ThreadSanitizer sees none of it.
struct alignas(64) Rendezvous {
    uint32_t threads = 0;
    uint32_t arrived = 0;    // at all meetings together, modulo 2^32
    uint32_t generation = 0; // meetings that are over: also a futex

    // Changes only when all threads have arrived: so not between two meetings of one thread.
    UNSEEN uint32_t meetings() const { return __atomic_load_n(&generation, __ATOMIC_ACQUIRE); }

    UNSEEN void meet() {
        const uint32_t meeting = __atomic_load_n(&generation, __ATOMIC_RELAXED);
        const uint32_t now_arrived = __atomic_add_fetch(&arrived, 1, __ATOMIC_ACQ_REL);
        if (now_arrived == (meeting + 1) * threads) {
            __atomic_store_n(&generation, meeting + 1, __ATOMIC_RELEASE);
            futex_wake_all(&generation);
        } else {
            while (meetings() == meeting) futex_wait(&generation, meeting);
        }
    }
};

// What ThreadSanitizer sees of a meeting that orders memory: all threads release, then all acquire.
// Meetings take turns at two words, so that nobody acquires what was released for the next one.
struct Edges {
#if ONEGRID_RACE_DETECTOR
    std::atomic<uint32_t> words[2] = {};

    void release(uint32_t meeting) { words[meeting % 2].fetch_add(1, std::memory_order_release); }
    void acquire(uint32_t meeting) { (void)words[meeting % 2].load(std::memory_order_acquire); }
#else
    void release(uint32_t) {}
    void acquire(uint32_t) {}
#endif
};

} // namespace emulator
