// Sums over bins: a work group for each bin of each frame. Compiled in besides:
// TOTAL, in which pixels are summed (long where that is exact, else double);
// SHARES, 1 if entries have shares of pixels; NORM and DARK, 1 if each pixel has its own;
// VARIANCE, of a pixel: 0 none, 1 its counts, 2 told for each, 3 its distance from the mean.

#define LOST 4
#if VARIANCE == 1 && !SHARES
#define SPREAD TOTAL
#else
#define SPREAD double
#endif

// Sums of pixels, of their variance, and what the constant sums lose, as 8 bytes each:
// out[frame][6][bins]. `pixels` and `variance` are [frame][size]. The entries of bin b are
// start[b] to start[b + 1]; `constants` are the sums [3][bins] of shares, norm and dark.
__kernel void sum_bins(
    __global const PIXEL *pixels, const uint size, __constant PIXEL *limits,
    __global const uint *start, __global const uint *place, __global const double *share,
    __global const float *norm, __global const float *dark, __global const double *variance,
    const int least, __global const double *constants, __global long *out)
{
    __local TOTAL signals[LANES];
    __local SPREAD spreads[LANES];
    __local double lost[LOST * LANES];
    __local int any_lost;
    const uint bin = get_group_id(0), bins = get_num_groups(0);
    const uint begin = start[bin], end = start[bin + 1];
    pixels += (size_t)get_group_id(1) * size;
#if VARIANCE == 2
    variance += (size_t)get_group_id(1) * size;
#endif
    if (get_local_id(0) == 0)
        any_lost = 0;
    barrier(CLK_LOCAL_MEM_FENCE);

    for (uint lane = get_local_id(0); lane < LANES; lane += get_local_size(0)) {
        TOTAL signal = 0;
        SPREAD spread = 0;
        double gone[LOST] = {0, 0, 0, 0};
        for (uint entry = begin + lane; entry < end; entry += LANES) {
            const uint pixel = place[entry];
            const PIXEL value = pixels[pixel];
            int counts = usable(value, limits);
#if VARIANCE == 2
            counts = counts && isfinite(variance[pixel]);
#endif
#if SHARES
            const double part = share[entry];
#endif
            if (counts) {
#if SHARES
                signal += part * (double)value;
#else
                signal += (TOTAL)value;
#endif
#if VARIANCE == 1 && SHARES
                spread += fmax((double)value, (double)least) * (part * part);
#elif VARIANCE == 1
                spread += (TOTAL)value > (TOTAL)least ? (TOTAL)value : (TOTAL)least;
#elif VARIANCE == 2 && SHARES
                spread += fmax(variance[pixel], 0.0) * (part * part);
#elif VARIANCE == 2
                spread += fmax(variance[pixel], 0.0);
#endif
            } else {
#if !SHARES
                const double part = 1;
#endif
                const double weight = part * norm[pixel * NORM];
                gone[0] += part;
                gone[1] += weight;
                gone[2] += weight * weight;
                gone[3] += part * dark[pixel * DARK];
                any_lost = 1;
            }
        }
        signals[lane] = signal;
        spreads[lane] = spread;
        for (int term = 0; term < LOST; term++)
            lost[term * LANES + lane] = gone[term];
    }
    REDUCE(signals, 1);
#if VARIANCE == 1 || VARIANCE == 2
    REDUCE(spreads, 1);
#endif
    if (any_lost)  // the same for all of the group
        REDUCE(lost, LOST);

#if VARIANCE == 3
    // The mean as the host takes it, of a bin that kept some of its pixels.
    const double shares_left = any_lost ? constants[bin] - lost[0] : constants[bin];
    double weight_left = constants[bins + bin], dark_left = constants[2 * bins + bin];
    if (any_lost) {
        weight_left -= lost[LANES];
        dark_left -= lost[3 * LANES];
    }
    double mean = 0;
    if (weight_left != 0 && shares_left > 1e-9 * constants[bin])
        mean = ((double)signals[0] - dark_left) / weight_left;
    for (uint lane = get_local_id(0); lane < LANES; lane += get_local_size(0)) {
        double spread = 0;
        for (uint entry = begin + lane; entry < end; entry += LANES) {
            const uint pixel = place[entry];
            const PIXEL value = pixels[pixel];
            if (!usable(value, limits))
                continue;
            double far = (double)value - dark[pixel * DARK];
            far -= (double)norm[pixel * NORM] * mean;
#if SHARES
            far *= share[entry];
#endif
            spread += far * far;
        }
        spreads[lane] = spread;
    }
    REDUCE(spreads, 1);
#endif

    if (get_local_id(0) == 0) {
        out += (size_t)get_group_id(1) * 6 * bins + bin;
#define BITS_double as_long
#define BITS_long
#define BITS_OF(TYPE) BITS_##TYPE
#define BITS(TYPE) BITS_OF(TYPE)
        out[0] = BITS(TOTAL)(signals[0]);
        out[bins] = BITS(SPREAD)(spreads[0]);
        for (int term = 0; term < LOST; term++)
            out[(2 + term) * bins] = any_lost ? as_long(lost[term * LANES]) : 0;
    }
}
