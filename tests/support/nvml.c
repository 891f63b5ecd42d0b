/* A stand-in for libnvidia-ml.so.1: the functions that mgpack calls, answering from a script.
 *
 * The file named by MGPACK_TEST_NVML holds one word a line, or a GPU a line:
 *   init CODE       what nvmlInit_v2 returns (0 where there is no such line)
 *   gpu FREE TOTAL CODE UUID NAME...   a GPU in PCI order: MiB, what its memory query returns, its texts
 *   cc MAJOR MINOR  the compute capability of the GPU before it
 *   lost            a GPU whose handle cannot be had
 * Signatures and codes: nvml.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, GPU_IS_LOST = 15, UNKNOWN = 999, MOST = 64 };

struct gpu { unsigned long long free, total; int code, lost, major, minor; char uuid[96], name[96]; };
static struct gpu gpus[MOST];
static unsigned count;

struct memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };

int nvmlInit_v2(void) {
    const char *path = getenv("MGPACK_TEST_NVML");
    FILE *script = path ? fopen(path, "r") : NULL;
    char line[512];
    int code = SUCCESS;
    if (!script) return UNKNOWN;
    count = 0;
    while (fgets(line, sizeof line, script) && count < MOST) {
        struct gpu *gpu = &gpus[count];
        memset(gpu, 0, sizeof *gpu);
        if (sscanf(line, "init %d", &code) == 1) continue;
        if (count > 0 && sscanf(line, "cc %d %d", &gpus[count - 1].major, &gpus[count - 1].minor) == 2) continue;
        if (strncmp(line, "lost", 4) == 0) { gpu->lost = 1; count++; }
        else if (sscanf(line, "gpu %llu %llu %d %95s %95[^\n]", &gpu->free, &gpu->total, &gpu->code, gpu->uuid,
                        gpu->name) == 5) count++;
    }
    fclose(script);
    return code;
}

int nvmlShutdown(void) { return SUCCESS; }

int nvmlSystemGetDriverVersion(char *text, unsigned length) {
    snprintf(text, length, "550.00");
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *found) {
    *found = count;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct gpu **gpu) {
    if (index >= count) return INVALID_ARGUMENT;
    if (gpus[index].lost) return GPU_IS_LOST;
    *gpu = &gpus[index];
    return SUCCESS;
}

int nvmlDeviceGetName(struct gpu *gpu, char *text, unsigned length) {
    snprintf(text, length, "%s", gpu->name);
    return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(struct gpu *gpu, int *major, int *minor) {
    if (gpu->major == 0) return GPU_IS_LOST;
    *major = gpu->major;
    *minor = gpu->minor;
    return SUCCESS;
}

int nvmlDeviceGetUUID(struct gpu *gpu, char *text, unsigned length) {
    snprintf(text, length, "%s", gpu->uuid);
    return SUCCESS;
}

#ifndef OLD_DRIVER
int nvmlDeviceGetMemoryInfo_v2(struct gpu *gpu, struct memory_v2 *memory) {
    if (memory->version != (sizeof *memory | 2 << 24)) return INVALID_ARGUMENT;
    if (gpu->code != SUCCESS) return gpu->code;
    memory->total = gpu->total << 20;
    memory->free = gpu->free << 20;
    memory->reserved = 0;
    memory->used = memory->total - memory->free;
    return SUCCESS;
}
#endif
