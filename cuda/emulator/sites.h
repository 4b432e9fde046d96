// The barriers of the kernels by name, and which of them are left out. A barrier of a block is named
// after its site in the source, learned as it is reached; one of the grid after its phase.
//
// Threads of a running kernel come here before each barrier, so nothing here may order their memory:
// no locks, and nothing that ThreadSanitizer sees.
#pragma once

#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>

#include "rendezvous.h"

namespace emulator {

constexpr const char* PHASE_NAMES[] = {
    "embed", "norm", "qkv", "attention", "output", "gate_up", "down", "head", "select", "sample",
};
static_assert(sizeof(PHASE_NAMES) / sizeof(*PHASE_NAMES) == OG_PHASES);

// A barrier of a block.
struct Site {
    enum : uint32_t { FREE, TAKEN, READY };

    uint32_t state = FREE;
    int line = 0;
    const char* file = nullptr;
    bool left_out = false;
    char name[120] = {};
};

class Sites {
public:
    // The site of a block's barrier, which becomes known with this.
    UNSEEN const Site* reach(const char* file, int line) {
        for (Site& site : sites) {
            uint32_t state = __atomic_load_n(&site.state, __ATOMIC_ACQUIRE);
            if (state == Site::FREE &&
                __atomic_compare_exchange_n(&site.state, &state, Site::TAKEN, false, __ATOMIC_ACQUIRE,
                                            __ATOMIC_ACQUIRE)) {
                fill(site, file, line);
                __atomic_store_n(&site.state, Site::READY, __ATOMIC_RELEASE);
                return &site;
            }
            while (__atomic_load_n(&site.state, __ATOMIC_ACQUIRE) == Site::TAKEN) sched_yield();
            if (site.line == line && (site.file == file || strcmp(site.file, file) == 0)) return &site;
        }
        fprintf(stderr, "onegrid emulator: more barriers than it can tell apart, at %s:%d\n", file, line);
        abort();
    }

    // Whether the grid barrier behind a phase, which becomes known with this, is left out.
    UNSEEN bool reach(OgPhase phase) {
        const uint32_t bit = 1u << phase;
        if ((__atomic_load_n(&phases_reached, __ATOMIC_RELAXED) & bit) == 0) {
            __atomic_fetch_or(&phases_reached, bit, __ATOMIC_RELAXED);
        }
        return (phases_left_out & bit) != 0;
    }

    // Only while no kernel runs.
    void leave_out(const std::string& name) {
        left_out.insert(name);
        for (unsigned phase = 0; phase < OG_PHASES; ++phase) {
            if (name == PHASE_NAMES[phase]) phases_left_out |= 1u << phase;
        }
        for (Site& site : sites) {
            if (site.state == Site::READY && name == site.name) site.left_out = true;
        }
    }

    // The names of all that was reached, from 0.
    UNSEEN const char* name(uint32_t index) const {
        for (unsigned phase = 0; phase < OG_PHASES; ++phase) {
            if ((__atomic_load_n(&phases_reached, __ATOMIC_RELAXED) >> phase & 1) != 0 && index-- == 0) {
                return PHASE_NAMES[phase];
            }
        }
        if (index >= MAX_SITES) return nullptr;
        const Site& site = sites[index];
        return __atomic_load_n(&site.state, __ATOMIC_ACQUIRE) == Site::READY ? site.name : nullptr;
    }

private:
    static constexpr unsigned MAX_SITES = 256;

    Site sites[MAX_SITES];
    uint32_t phases_reached = 0;
    uint32_t phases_left_out = 0;
    std::set<std::string> left_out;

    // "/home/me/onegrid/cuda/emulator/../core/barrier.h" is core/barrier.h.
    UNSEEN void fill(Site& site, const char* file, int line) {
        std::string name = std::filesystem::path(file).lexically_normal().string() + ":" + std::to_string(line);
        const size_t folder = ("/" + name).rfind("/cuda/");
        if (folder != std::string::npos) name.erase(0, folder + strlen("cuda/"));
        name.resize(std::min(name.size(), sizeof site.name - 1));
        // Letter by letter: ThreadSanitizer sees what functions of the C library write.
        for (size_t i = 0; i < name.size(); ++i) __atomic_store_n(&site.name[i], name[i], __ATOMIC_RELAXED);
        site.file = file;
        site.line = line;
        site.left_out = left_out.contains(name);
    }
};

} // namespace emulator
