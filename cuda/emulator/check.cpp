// Runs a case file in the emulator, in a program of its own, so that it can be compiled with
// sanitizers and fail alone:
//
//   check CASE RESULT [--leave-out SITE]... [--list-sites] [--jitter SEED] [--times] [--tensors]
//         [--stop-after TOKENS]
//
// --leave-out  a barrier, by site or phase as in launch.h, that is to order nothing
// --list-sites prints the sites that were reached, one a line, sorted
// --jitter     lets threads yield and sleep here and there; a number chooses where
// --times      prints what each launch took, in microseconds, one a line
// --stop-after wishes every request to stop, as a host would, once a running launch handed out so many tokens
// --tensors    lets AddressSanitizer report what kernels do outside the tensors that their arguments list
//
// Exit codes: 0 all ran. 2 wrong use, or a bad case file. 3 a site to leave out was never reached.
// 4 a launch was refused. 5 a kernel wrote to the weights. 66 ThreadSanitizer has a report, and 67
// another sanitizer, all at the first one.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "case_file.h"
#include "launch.h"
#include "tensors.h"

// What the sanitizers ask for at start.
extern "C" const char* __tsan_default_options() { return "halt_on_error=1:exitcode=66:atexit_sleep_ms=0"; }
extern "C" const char* __asan_default_options() { return "exitcode=67:detect_stack_use_after_return=0"; }
extern "C" const char* __ubsan_default_options() { return "halt_on_error=1:exitcode=67:print_stacktrace=1"; }

namespace {

enum ExitCode { WRONG_USE = 2, NEVER_REACHED = 3, REFUSED = 4, WEIGHTS_WRITTEN = 5 };

[[noreturn, gnu::format(printf, 2, 3)]] void fail(ExitCode code, const char* format, ...) {
    va_list values;
    va_start(values, format);
    fputs("check: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    va_end(values);
    exit(code);
}

// Memory that kernels run on: of its size exactly, so that AddressSanitizer sees what goes beyond.
class Piece {
public:
    explicit Piece(size_t bytes) : bytes_(bytes) {
        void* memory;
        if (posix_memalign(&memory, OG_TENSOR_ALIGNMENT, bytes) != 0) fail(WRONG_USE, "no memory for %zu bytes", bytes);
        data_ = static_cast<char*>(memory);
    }
    Piece(const Piece&) = delete;
    ~Piece() { free(data_); }

    char* data() { return data_; }
    size_t bytes() const { return bytes_; }
    uint64_t address() const { return reinterpret_cast<uint64_t>(data_); }

private:
    char* data_;
    size_t bytes_;
};

class CaseFile {
public:
    explicit CaseFile(const char* path) : file(path, std::ios::binary) {
        if (!file) fail(WRONG_USE, "can't open %s", path);
    }

    void read(void* to, size_t bytes) {
        file.read(static_cast<char*>(to), static_cast<std::streamsize>(bytes));
        if (!file) fail(WRONG_USE, "the case file ends too early");
    }

    template <class T>
    T read() {
        T value;
        read(&value, sizeof value);
        return value;
    }

private:
    std::ifstream file;
};

struct Options {
    const char* case_path = nullptr;
    const char* result_path = nullptr;
    std::vector<std::string> left_out;
    bool list_sites = false;
    bool times = false;
    bool tensors = false;
    uint32_t stop_after = 0; // 0: never
};

Options parse(int count, char** words) {
    Options options;
    for (int i = 1; i < count; ++i) {
        const std::string word = words[i];
        const char* next = i + 1 < count ? words[i + 1] : nullptr;
        if (word == "--list-sites") {
            options.list_sites = true;
        } else if (word == "--times") {
            options.times = true;
        } else if (word == "--tensors") {
            options.tensors = true;
        } else if (word == "--stop-after" && next != nullptr) {
            options.stop_after = static_cast<uint32_t>(strtoul(next, nullptr, 10));
            ++i;
        } else if (word == "--leave-out" && next != nullptr) {
            options.left_out.push_back(next);
            onegrid_emulator_leave_out(next);
            ++i;
        } else if (word == "--jitter" && next != nullptr) {
            onegrid_emulator_jitter(strtoull(next, nullptr, 10));
            ++i;
        } else if (options.case_path == nullptr) {
            options.case_path = words[i];
        } else if (options.result_path == nullptr) {
            options.result_path = words[i];
        } else {
            fail(WRONG_USE, "what is %s?", words[i]);
        }
    }
    if (options.result_path == nullptr) {
        fail(WRONG_USE, "usage: check CASE RESULT [--leave-out SITE]... [--list-sites] [--jitter SEED] [--times] [--tensors] "
                         "[--stop-after TOKENS]");
    }
    return options;
}

// The host's side of a launch: waits for a token in the ring, then raises the flag that stops every request.
class Stopper {
public:
    Stopper(OgMailbox* mailbox, uint32_t tokens) {
        if (tokens != 0) thread = std::thread([this, mailbox, tokens] { wait_and_stop(mailbox, tokens); });
    }
    ~Stopper() {
        ended.store(true);
        if (thread.joinable()) thread.join();
    }

private:
    void wait_and_stop(OgMailbox* mailbox, uint32_t tokens) const {
        const uint64_t* entry = mailbox->ring + (tokens - 1);
        while (__atomic_load_n(entry, __ATOMIC_RELAXED) >> 32 != tokens) {
            if (ended.load()) return;
            std::this_thread::yield();
        }
        __atomic_store_n(&mailbox->stop_mask, ~0u, __ATOMIC_RELAXED);
    }

    std::atomic<bool> ended{false};
    std::thread thread;
};

void write_at(Piece& piece, uint64_t offset, uint64_t bytes, CaseFile& from) {
    if (offset > piece.bytes() || bytes > piece.bytes() - offset) fail(WRONG_USE, "a write goes beyond its piece");
    from.read(piece.data() + offset, bytes);
}

} // namespace

int main(int count, char** words) {
    const Options options = parse(count, words);
    CaseFile file(options.case_path);
    const OgCase header = file.read<OgCase>();
    if (header.magic != OG_CASE_MAGIC) fail(WRONG_USE, "%s is no case file", options.case_path);
    if (header.arguments_bytes != sizeof(OgArguments)) fail(WRONG_USE, "the case file has other arguments: rebuild");

    Piece weights(header.weights_bytes), state(header.state_bytes), mailbox(header.mailbox_bytes);
    Piece trace(header.trace_bytes);
    memset(trace.data(), 0, trace.bytes());
    for (Piece* piece : {&weights, &state, &mailbox}) file.read(piece->data(), piece->bytes());
    const std::vector<char> weights_before(weights.data(), weights.data() + weights.bytes());

    for (uint64_t i = 0; i < header.steps; ++i) {
        OgCaseStep step = file.read<OgCaseStep>();
        step.kernel[OG_CASE_KERNEL_NAME - 1] = 0;
        if (step.kind == OG_CASE_WRITE_STATE || step.kind == OG_CASE_WRITE_MAILBOX) {
            write_at(step.kind == OG_CASE_WRITE_STATE ? state : mailbox, step.offset, step.payload_bytes, file);
            continue;
        }
        if (step.kind != OG_CASE_LAUNCH || step.payload_bytes != sizeof(OgArguments)) {
            fail(WRONG_USE, "step %llu is neither launch nor write", static_cast<unsigned long long>(i));
        }
        OgArguments arguments = file.read<OgArguments>();
        arguments.weights = weights.address();
        arguments.state = state.address();
        arguments.mailbox = mailbox.address();
        if (arguments.trace != 0) arguments.trace = trace.address();
        if (options.tensors) {
            emulator::guard_weights(arguments, weights.data(), weights.bytes());
            emulator::guard_state(arguments, state.data(), state.bytes());
        }
        const auto begin = std::chrono::steady_clock::now();
        int error;
        {
            const Stopper stopper(reinterpret_cast<OgMailbox*>(mailbox.data()), options.stop_after);
            error = onegrid_emulator_launch(step.kernel, step.blocks, step.threads, step.shared_bytes, &arguments);
        }
        const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - begin;
        if (error != OG_EMULATOR_OK) {
            fail(REFUSED, "launch of %s, %u blocks of %u threads, %u bytes shared: error %d", step.kernel, step.blocks,
                 step.threads, step.shared_bytes, error);
        }
        if (options.times) printf("%.1f\n", took.count());
        for (Piece* piece : {&weights, &state}) emulator::allow_all(piece->data(), piece->bytes());
    }

    std::ofstream result(options.result_path, std::ios::binary);
    for (Piece* piece : {&state, &mailbox}) result.write(piece->data(), static_cast<std::streamsize>(piece->bytes()));
    result.close();
    if (!result) fail(WRONG_USE, "can't write %s", options.result_path);

    if (memcmp(weights_before.data(), weights.data(), weights.bytes()) != 0) {
        fail(WEIGHTS_WRITTEN, "a kernel wrote to the weights");
    }
    std::set<std::string> reached;
    for (uint32_t i = 0; onegrid_emulator_site(i) != nullptr; ++i) reached.insert(onegrid_emulator_site(i));
    for (const std::string& site : options.left_out) {
        if (!reached.contains(site)) fail(NEVER_REACHED, "no barrier %s was reached", site.c_str());
    }
    if (options.list_sites) {
        for (const std::string& site : reached) puts(site.c_str());
    }
    return 0;
}
