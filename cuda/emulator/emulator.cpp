// Runs kernels on threads of the operating system: a launch, the threads that it runs on, and what
// those do for the kernel in them.
#include "emulator.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "launch.h"
#include "sites.h"
#include "rendezvous.h"

namespace emulator {
namespace {

constexpr unsigned LANES = 32;
// Of a thread: kernels have few locals, but sanitizers put room around each.
constexpr size_t STACK_BYTES = 256 << 10;
// What yield() waits at most: for words that nobody here writes, such as the host's.
constexpr timespec YIELD_TIMEOUT{0, 1000000};
// How often the host looks whether its kernel can still end.
constexpr timespec DEADLOCK_CHECK{2, 0};

struct alignas(64) Warp {
    Rendezvous meeting;
    Edges edges;
    // What lanes pass each other, by turns: a lane that comes early to an exchange must not overwrite
    // what a late one has yet to read of the last.
    uint64_t passed[2][LANES][MAX_GATHERED] = {};
};

struct alignas(64) Block {
    Rendezvous meeting;
    Edges edges;
    // Where thread 0 is, by turns as above: all threads must meet at the same site.
    const Site* site[2] = {};
    void* shared = nullptr;

    Block() = default;
    Block(const Block&) = delete;
    ~Block() { free(shared); }
};

struct Launch;

// A CUDA thread.
struct alignas(64) Thread {
    Launch* launch = nullptr;
    Block* block = nullptr;
    Warp* warp = nullptr;
    unsigned block_index = 0;
    unsigned thread_index = 0;
    uint32_t signals_seen = 0;
    uint64_t random = 0; // 0: no jitter
    // For the check for deadlocks.
    bool left = false;
    const Rendezvous* waits_for = nullptr;
    uint32_t waits_since = 0;
    const char* waits_at = nullptr;
};

struct Launch {
    Kernel kernel;
    const OgArguments* arguments;
    unsigned blocks_count;
    unsigned threads_count; // of a block
    Rendezvous meeting;
    Edges edges;
    std::unique_ptr<Block[]> blocks;
    std::unique_ptr<Warp[]> warps;
    std::unique_ptr<Thread[]> threads;
};

// 32 threads of the operating system, which run a warp of each launch that is large enough.
struct Crew {
    uint32_t launches = 0; // that the host told lane 0 of: a futex
    uint32_t passed_on = 0; // that lane 0 told the others of: a futex
    unsigned index;
    Launch* launch = nullptr;
};

struct CrewMember {
    Crew* crew;
    unsigned lane;
};

// The processors that this process may use.
std::vector<int> processors() {
    cpu_set_t set;
    std::vector<int> found;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return found;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (CPU_ISSET(cpu, &set)) found.push_back(cpu);
    }
    return found;
}

thread_local Thread* self = nullptr;

// What outlives launches. Never destroyed: its threads sleep until the process ends.
struct Machine {
    std::mutex launching;
    std::vector<Crew*> crews;
    uint32_t running = 0; // threads of the launch that have not ended
    uint32_t launches_ended = 0; // a futex
    uint32_t signals = 0;  // a futex
    uint32_t sleepers = 0; // in yield()
    Sites sites;
    uint64_t jitter_seed = 0;
    const std::vector<int> cpus = processors();
};

Machine& machine = *new Machine;

std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> by_name;
    return by_name;
}

// ---- Meetings. ----

// Now and then, lets others go first.
void jitter() {
    if (self->random == 0) return;
    // xorshift64
    self->random ^= self->random << 13;
    self->random ^= self->random >> 7;
    self->random ^= self->random << 17;
    const uint64_t dice = self->random >> 32;
    if (dice % 8 == 0) {
        sched_yield();
    } else if (dice % 64 == 1) {
        const timespec moment{0, static_cast<long>(dice >> 6) % 50000};
        nanosleep(&moment, nullptr);
    }
}

UNSEEN void meet(Rendezvous& meeting, const char* where) {
    __atomic_store_n(&self->waits_since, meeting.meetings(), __ATOMIC_RELAXED);
    __atomic_store_n(&self->waits_at, where, __ATOMIC_RELAXED);
    __atomic_store_n(&self->waits_for, &meeting, __ATOMIC_RELEASE);
    meeting.meet();
    __atomic_store_n(&self->waits_for, nullptr, __ATOMIC_RELAXED);
}

UNSEEN void meet_at(const Site* site) {
    Block& block = *self->block;
    const Site*& agreed = block.site[block.meeting.meetings() % 2];
    if (self->thread_index == 0) agreed = site;
    meet(block.meeting, site->name);
    if (agreed == site) return;
    fprintf(stderr, "onegrid emulator: in block %u, thread 0 is at %s and thread %u at %s\n", self->block_index,
            agreed->name, self->thread_index, site->name);
    abort();
}

// ---- Threads. ----

UNSEEN void leave() { __atomic_store_n(&self->left, true, __ATOMIC_RELEASE); }

// Moves this thread to its block's processor. Threads of a block wake each other all the time, and to
// wake one on another processor takes twice as long.
void pin(unsigned block) {
    thread_local int pinned_to = -1;
    if (machine.cpus.size() < 2) return;
    const int cpu = machine.cpus[block % machine.cpus.size()];
    if (cpu == pinned_to) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) == 0) pinned_to = cpu;
}

void run(Launch& launch, unsigned thread) {
    self = &launch.threads[thread];
    pin(self->block_index);
    blockIdx.x = self->block_index;
    threadIdx.x = self->thread_index;
    gridDim.x = launch.blocks_count;
    blockDim.x = launch.threads_count;
    jitter();
    launch.kernel(*launch.arguments);
    leave();
}

void* work(void* argument) {
    const CrewMember member = *std::unique_ptr<CrewMember>(static_cast<CrewMember*>(argument));
    Crew& crew = *member.crew;
    const uint32_t& go = member.lane == 0 ? crew.launches : crew.passed_on;
    for (uint32_t done = 0;; ++done) {
        while (__atomic_load_n(&go, __ATOMIC_ACQUIRE) == done) futex_wait(&go, done);
        if (member.lane == 0) {
            __atomic_store_n(&crew.passed_on, done + 1, __ATOMIC_RELEASE);
            futex_wake_all(&crew.passed_on);
        }
        run(*crew.launch, crew.index * LANES + member.lane);
        if (__atomic_sub_fetch(&machine.running, 1, __ATOMIC_ACQ_REL) == 0) {
            __atomic_add_fetch(&machine.launches_ended, 1, __ATOMIC_RELEASE);
            futex_wake_all(&machine.launches_ended);
        }
    }
}

bool start_crew() {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    // Threads of a crew that is not complete wait for a launch that never comes.
    Crew* const crew = new Crew;
    crew->index = static_cast<unsigned>(machine.crews.size());
    bool complete = true;
    for (unsigned lane = 0; lane < LANES && complete; ++lane) {
        auto member = std::make_unique<CrewMember>(CrewMember{crew, lane});
        pthread_t thread;
        complete = pthread_create(&thread, &attributes, work, member.get()) == 0;
        if (complete) (void)member.release();
    }
    pthread_attr_destroy(&attributes);
    if (complete) machine.crews.push_back(crew);
    return complete;
}

// ---- Launches. ----

// A thread that waits for a meeting that is not over.
struct Waiting {
    const Rendezvous* meeting;
    uint32_t since;
    bool operator==(const Waiting&) const = default;
};

// Every thread of a launch that waits; empty if one runs.
UNSEEN std::vector<Waiting> all_waiting(const Launch& launch) {
    std::vector<Waiting> waiting;
    for (unsigned thread = 0; thread < launch.blocks_count * launch.threads_count; ++thread) {
        const Thread& it = launch.threads[thread];
        if (__atomic_load_n(&it.left, __ATOMIC_ACQUIRE)) continue;
        const Rendezvous* const meeting = __atomic_load_n(&it.waits_for, __ATOMIC_ACQUIRE);
        const uint32_t since = __atomic_load_n(&it.waits_since, __ATOMIC_RELAXED);
        if (meeting == nullptr || meeting->meetings() != since) return {};
        waiting.push_back({meeting, since});
    }
    return waiting;
}

// Ends the program if no thread of the launch can ever go on: then some wait at a barrier for others
// that left the kernel, or are at another.
UNSEEN void check_for_deadlock(const Launch& launch) {
    // A thread that is seen at one meeting twice was there in between: so between the two looks all
    // of them waited.
    const std::vector<Waiting> before = all_waiting(launch);
    if (before.empty() || before != all_waiting(launch)) return;
    fprintf(stderr, "onegrid emulator: deadlock. The threads of this launch wait for ever:\n");
    std::map<std::pair<unsigned, std::string>, unsigned> threads;
    for (unsigned thread = 0; thread < launch.blocks_count * launch.threads_count; ++thread) {
        const Thread& it = launch.threads[thread];
        ++threads[{it.block_index, it.left ? "nothing: they left the kernel" : it.waits_at}];
    }
    for (const auto& [where, count] : threads) {
        fprintf(stderr, "  block %u: %u threads at %s\n", where.first, count, where.second.c_str());
    }
    abort();
}

bool prepare(Launch& launch, uint32_t shared_bytes) {
    const unsigned warps = launch.threads_count / LANES;
    launch.meeting.threads = launch.blocks_count * launch.threads_count;
    launch.blocks = std::make_unique<Block[]>(launch.blocks_count);
    launch.warps = std::make_unique<Warp[]>(launch.blocks_count * warps);
    launch.threads = std::make_unique<Thread[]>(launch.blocks_count * launch.threads_count);
    for (unsigned block = 0; block < launch.blocks_count; ++block) {
        Block& its = launch.blocks[block];
        its.meeting.threads = launch.threads_count;
        // Of this size exactly, so that AddressSanitizer sees what goes beyond.
        if (shared_bytes != 0 && posix_memalign(&its.shared, 128, shared_bytes) != 0) return false;
        if (shared_bytes != 0) memset(its.shared, 0xff, shared_bytes);
        for (unsigned warp = 0; warp < warps; ++warp) launch.warps[block * warps + warp].meeting.threads = LANES;
        for (unsigned thread = 0; thread < launch.threads_count; ++thread) {
            const unsigned index = block * launch.threads_count + thread;
            Thread& one = launch.threads[index];
            one.launch = &launch;
            one.block = &its;
            one.warp = &launch.warps[index / LANES];
            one.block_index = block;
            one.thread_index = thread;
            const uint64_t seed = machine.jitter_seed;
            one.random = seed == 0 ? 0 : (seed * 0x9e3779b97f4a7c15 + index + 1) * 0xbf58476d1ce4e5b9 | 1;
        }
    }
    while (machine.crews.size() < launch.blocks_count * warps) {
        if (!start_crew()) return false;
    }
    return true;
}

// Kernels see all that the host did before, and the host all that the kernel did.
void run_to_end(Launch& launch) {
    const uint32_t ended = __atomic_load_n(&machine.launches_ended, __ATOMIC_RELAXED);
    const unsigned threads = launch.blocks_count * launch.threads_count;
    __atomic_store_n(&machine.running, threads, __ATOMIC_RELAXED);
    for (unsigned warp = 0; warp < threads / LANES; ++warp) {
        Crew& crew = *machine.crews[warp];
        crew.launch = &launch;
        __atomic_add_fetch(&crew.launches, 1, __ATOMIC_RELEASE);
        futex_wake_all(&crew.launches);
    }
    while (__atomic_load_n(&machine.launches_ended, __ATOMIC_ACQUIRE) == ended) {
        futex_wait(&machine.launches_ended, ended, &DEADLOCK_CHECK);
        check_for_deadlock(launch);
    }
}

} // namespace

// ---- What kernels call. ----

void block_barrier(const char* file, int line) {
    const Site* const site = machine.sites.reach(file, line);
    Block& block = *self->block;
    const uint32_t meeting = block.meeting.meetings();
    jitter();
    if (!site->left_out) block.edges.release(meeting);
    meet_at(site);
    if (!site->left_out) block.edges.acquire(meeting);
    jitter();
}

void grid_barrier(bool relaxed) {
    Launch& launch = *self->launch;
    const uint32_t meeting = launch.meeting.meetings();
    jitter();
    if (!relaxed) launch.edges.release(meeting);
    meet(launch.meeting, "a grid barrier");
    if (!relaxed) launch.edges.acquire(meeting);
    jitter();
}

bool is_left_out(OgPhase phase) { return machine.sites.reach(phase); }

void warp_barrier() {
    Warp& warp = *self->warp;
    const uint32_t meeting = warp.meeting.meetings();
    jitter();
    warp.edges.release(meeting);
    meet(warp.meeting, "a warp barrier");
    warp.edges.acquire(meeting);
}

UNSEEN uint64_t exchange_bits(uint64_t value, unsigned source_lane) {
    Warp& warp = *self->warp;
    auto& passed = warp.passed[warp.meeting.meetings() % 2];
    passed[self->thread_index % LANES][0] = value;
    meet(warp.meeting, "a warp exchange");
    return passed[source_lane % LANES][0];
}

UNSEEN void gather_bits(const uint32_t* values, unsigned count, uint32_t* out) {
    Warp& warp = *self->warp;
    auto& passed = warp.passed[warp.meeting.meetings() % 2];
    // Word by word: ThreadSanitizer sees every memcpy.
    for (unsigned i = 0; i < count; ++i) __atomic_store_n(&passed[self->thread_index % LANES][i], values[i], __ATOMIC_RELAXED);
    meet(warp.meeting, "a warp exchange");
    for (unsigned lane = 0; lane < LANES; ++lane) {
        for (unsigned i = 0; i < count; ++i) {
            const uint64_t value = __atomic_load_n(&passed[lane][i], __ATOMIC_RELAXED);
            __atomic_store_n(&out[i * LANES + lane], static_cast<uint32_t>(value), __ATOMIC_RELAXED);
        }
    }
}

void* shared_memory() { return self->block->shared; }

UNSEEN void signal() {
    __atomic_fetch_add(&machine.signals, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&machine.sleepers, __ATOMIC_SEQ_CST) != 0) futex_wake_all(&machine.signals);
}

UNSEEN void yield() {
    uint32_t& signals = machine.signals;
    if (__atomic_load_n(&signals, __ATOMIC_SEQ_CST) == self->signals_seen) {
        __atomic_fetch_add(&machine.sleepers, 1, __ATOMIC_SEQ_CST);
        futex_wait(&signals, self->signals_seen, &YIELD_TIMEOUT);
        __atomic_fetch_sub(&machine.sleepers, 1, __ATOMIC_SEQ_CST);
    }
    self->signals_seen = __atomic_load_n(&signals, __ATOMIC_SEQ_CST);
}

uint64_t clock_nanoseconds() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1000000000 + static_cast<uint64_t>(now.tv_nsec);
}

Registration::Registration(const char* name, Kernel kernel) {
    if (kernels().emplace(name, kernel).second) return;
    fprintf(stderr, "onegrid emulator: two kernels are called %s\n", name);
    abort();
}

} // namespace emulator

// ---- What the host calls. ----

using namespace emulator;

extern "C" int32_t onegrid_emulator_launch(
    const char* kernel, uint32_t blocks, uint32_t threads, uint32_t shared_bytes, const OgArguments* arguments) {
    const auto found = kernels().find(kernel);
    if (found == kernels().end()) return OG_EMULATOR_UNKNOWN_KERNEL;
    if (blocks == 0 || threads == 0 || threads % LANES != 0 || threads > OG_MAX_THREADS ||
        blocks > OG_EMULATOR_MAX_THREADS / threads) {
        return OG_EMULATOR_BAD_GRID;
    }
    if (shared_bytes > OG_EMULATOR_MAX_SHARED) return OG_EMULATOR_BAD_SHARED;
    const std::lock_guard<std::mutex> only_one(machine.launching);
    Launch launch{found->second, arguments, blocks, threads, {}, {}, {}, {}, {}};
    if (!prepare(launch, shared_bytes)) return OG_EMULATOR_NO_RESOURCES;
    run_to_end(launch);
    return OG_EMULATOR_OK;
}

extern "C" const char* onegrid_emulator_kernel(uint32_t index) {
    for (const auto& [name, kernel] : kernels()) {
        if (index-- == 0) return name.c_str();
    }
    return nullptr;
}

extern "C" const char* onegrid_emulator_site(uint32_t index) { return machine.sites.name(index); }

extern "C" void onegrid_emulator_leave_out(const char* site) {
    const std::lock_guard<std::mutex> only_one(machine.launching);
    machine.sites.leave_out(site);
}

extern "C" void onegrid_emulator_jitter(uint64_t seed) {
    const std::lock_guard<std::mutex> only_one(machine.launching);
    machine.jitter_seed = seed;
}
