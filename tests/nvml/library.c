// A libnvidia-ml with one GPU, whose counters are known: what main.rs holds the readings against.
// Names, signatures, units and codes are those of NVIDIA's nvml.h.

#include <string.h>

enum { SUCCESS = 0, NOT_FOUND = 6 };

static const char uuid[] = "GPU-00112233-4455-6677-8899-aabbccddeeff";
static int gpu;
static unsigned long long millijoules = 5000000;

int nvmlInit_v2(void) {
    return SUCCESS;
}

int nvmlShutdown(void) {
    return SUCCESS;
}

int nvmlSystemGetDriverVersion(char* version, unsigned length) {
    strncpy(version, "580.00", length);
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char* asked, void** device) {
    *device = &gpu;
    return strcmp(asked, uuid) == 0 ? SUCCESS : NOT_FOUND;
}

int nvmlDeviceGetName(void* device, char* name, unsigned length) {
    (void)device;
    strncpy(name, "A GPU", length);
    return SUCCESS;
}

// 12.5 J from one reading to the next.
int nvmlDeviceGetTotalEnergyConsumption(void* device, unsigned long long* energy) {
    (void)device;
    *energy = millijoules;
    millijoules += 12500;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(void* device, unsigned* milliwatts) {
    (void)device;
    *milliwatts = 83250;
    return SUCCESS;
}
