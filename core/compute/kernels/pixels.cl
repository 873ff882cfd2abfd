// What all kernels over pixels need. Compiled in: PIXEL, the type of the pixels;
// LANES, the number of partial sums of a work group.
//
// A work group of any size fills the same partial sums, each from the same pixels in
// the same order, and adds them in the same order: so its size changes no result.

#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#pragma OPENCL FP_CONTRACT OFF

// Whether a pixel counts: see limits.py.
static inline int usable(PIXEL value, __constant PIXEL *limits)
{
    return value >= limits[0] && value <= limits[1]
        && (value < limits[2] || value > limits[3])
        && (value < limits[4] || value > limits[5])
        && (value < limits[6] || value > limits[7]);
}

// Add up the lanes of each term, part[term][lane], into its first one. A macro, as PoCL
// takes a barrier only for what it is in the kernel itself.
#define REDUCE(part, terms)                                                                     \
    do {                                                                                        \
        for (int half_way = LANES / 2; half_way > 0; half_way /= 2) {                           \
            barrier(CLK_LOCAL_MEM_FENCE);                                                       \
            for (int to = get_local_id(0); to < half_way; to += get_local_size(0))              \
                for (int term = 0; term < (terms); term++)                                      \
                    part[term * LANES + to] += part[term * LANES + to + half_way];              \
        }                                                                                       \
        barrier(CLK_LOCAL_MEM_FENCE);                                                           \
    } while (0)
