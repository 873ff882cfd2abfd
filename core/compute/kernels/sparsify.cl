// Sigma clipping, thresholds and picking: clipping.py, guessing.py and thresholds.py say what
// is computed. Compiled in besides what pixels.cl needs: MODEL (Model of clipping.py);
// NORM and DARK, 1 if each pixel has its own; RING, type of the ring of a pixel.

#define POISSON 0
#define CLASSIC 1
#define AZIMUTHAL 2
#define HYBRID 3
#define FORMULA 4

#define SAMPLE 32
#define SEGMENT 4096
#define WORD 32
#define LN_2 0.69314718055994530942
#define ROOT_TWO_PI 2.50662827463100050242
#define WINDOW 6.0
#define MAD 1.4826
#define MARGIN 1e-4

// Of quantile.py.
#define LARGEST 37.0
#define MOST 1048576.0
#define LOWEST_POWER -30
#define COARSE 8
#define FINE 128
#define CUT_STEP 0.25

// The sums of the pixels of a ring, where they lie in local memory; see Sums of clipping.py.
// Without normalization its sums are the number of pixels.
#define HAS_TERM \
    (MODEL == CLASSIC || MODEL == HYBRID || MODEL == FORMULA || (MODEL == POISSON && DARK))
#define HAS_SQUARES (MODEL == AZIMUTHAL || MODEL == HYBRID)
#define NUMBER 0
#define SIGNAL 1
#define WEIGHT (2 * NORM)
#define WEIGHT_SQUARED (3 * NORM)
#define TERM (2 + 2 * NORM)
#define SHIFTED_WEIGHT (TERM + HAS_TERM)
#define SHIFTED_SQUARED (SHIFTED_WEIGHT + 1)
#define TERMS (2 + 2 * NORM + HAS_TERM + 2 * HAS_SQUARES)
// Behind them signal and normalization of all usable pixels.
#define TOTAL TERMS
#define TOTAL_WEIGHT (TERMS + NORM)
#define ALL_TERMS (TERMS + 1 + NORM)

// ------------------------------------------------------------------ quantiles

static inline double expansion(double mean, double cutoff, double side)
{
    const double root = sqrt(mean), skew = side * (cutoff * cutoff - 1) / 6;
    return cutoff * root + skew + 0.5 + (cutoff - cutoff * cutoff * cutoff) / (72 * root);
}

static inline double excess(__global const double *table, int size, double cutoff, double mean)
{
    if (mean >= MOST)
        return expansion(mean, fmin(cutoff, LARGEST), 1.0);
    if (!(mean > 0))
        return table[0];
    const double place = (log2(mean) - LOWEST_POWER) * FINE;
    if (place <= 0)
        return table[0];
    const int first = min((int)place, size - 2);
    const double share = place - first;
    return table[first] * (1 - share) + table[first + 1] * share;
}

static inline double bilinear(
    __global const double *table, int columns, int row, int column, double across, double along)
{
    table += row * columns + column;
    const double near = table[0] * (1 - along) + table[1] * along;
    const double far = table[columns] * (1 - along) + table[columns + 1] * along;
    return near * (1 - across) + far * across;
}

// Shortfall and excess at any cutoff, of tables [2][rows][columns]: shortfall, excess.
static inline double2 limits_of_clipping(
    __global const double *tables, int rows, int columns, double cutoff, double mean)
{
    cutoff = fmin(cutoff, LARGEST);
    if (mean >= MOST)
        return (double2)(expansion(mean, cutoff, -1.0), expansion(mean, cutoff, 1.0));
    double place = 0;
    if (mean > 0)
        place = fmax((log2(mean) - LOWEST_POWER) * COARSE, 0.0);
    const int column = min((int)place, columns - 2);
    const int row = min((int)(cutoff / CUT_STEP), rows - 2);
    const double along = place - column, across = cutoff / CUT_STEP - row;
    return (double2)(
        bilinear(tables, columns, row, column, across, along),
        bilinear(tables + rows * columns, columns, row, column, across, along));
}

// ------------------------------------------------------------------- clipping

// Standard deviation of a pixel's value: by its scatter, or by its own variance.
#define SUM(term) sums[(term) * LANES]

static inline double by_scatter(__local const double *sums, double reference)
{
    double total = 0;
#if HAS_SQUARES
    const double far = SUM(SIGNAL) / SUM(WEIGHT) - reference;
    total = SUM(SHIFTED_SQUARED) - 2 * far * SUM(SHIFTED_WEIGHT)
          + far * far * SUM(WEIGHT_SQUARED);
#endif
    return sqrt(fmax(total, 0.0) / SUM(WEIGHT_SQUARED));
}

static inline double by_variance(__local const double *sums)
{
    double total = 0;
#if HAS_TERM
    total += SUM(TERM);
#endif
#if MODEL == POISSON
    total += SUM(SIGNAL);
#endif
    return sqrt(fmax(total, 0.0) / SUM(WEIGHT_SQUARED));
}

// Put the values that count in order, by their ranks.
static inline void sort(
    __local const double *values, __local const int *counts, __local double *in_order)
{
    for (int index = get_local_id(0); index < SAMPLE; index += get_local_size(0)) {
        int rank = 0;
        for (int other = 0; other < SAMPLE; other++)
            rank += counts[other]
                 && (values[other] < values[index]
                     || (values[other] == values[index] && other < index));
        if (counts[index])
            in_order[rank] = values[index];
    }
}

// What is summed up at present.
#define FIRST 0   // what lies in the window about the median
#define ALL 1     // all, as nothing lies there
#define CYCLE 2   // what lies in a band more
#define REMAINS 3 // what is left, for good
#define DONE 4

// The background of each ring, a work group for one. The pixels of ring r are `order` from
// start[r] to start[r + 1]; `norm` and `dark` lie in that order too, and so does `sorted`,
// memory for the pixels. `constants` are the sums [2][rings] of norm and of its square.
// result[3][rings]: average and deviation as floats, number of pixels left. Behind it
// doubles[2][rings]: signal and normalization of all usable pixels.
__kernel void clip_rings(
    __global const PIXEL *pixels, __constant PIXEL *limits,
    __global const uint *start, __global const uint *order,
    __global const float *norm, __global const float *dark, __global const double *formula,
    __global const double *constants, __global const double *tables, const int rows,
    const int columns, const double cutoff, const int cycles, __global PIXEL *sorted,
    __global uint *result)
{
    __local double part[ALL_TERMS * LANES];
    __local double values[SAMPLE];
    __local int counts[SAMPLE];
    __local uint usables[LANES];
    __local double in_order[SAMPLE];
    __local double low, high;
    __local int phase;
    const uint ring = get_group_id(0), rings = get_num_groups(0);
    const uint begin = start[ring], end = start[ring + 1], size = end - begin;

    // A first guess from a sample.
    for (uint index = get_local_id(0); index < SAMPLE; index += get_local_size(0)) {
        counts[index] = 0;
        values[index] = 0;
        if (index < size) {
            const uint entry = begin + (uint)((ulong)index * size / min(size, (uint)SAMPLE));
            const PIXEL value = pixels[order[entry]];
            counts[index] = usable(value, limits);
            values[index] = ((double)value - dark[entry * DARK]) / norm[entry * NORM];
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    int number = 0;
    for (int index = 0; index < SAMPLE; index++)
        number += counts[index];
    sort(values, counts, in_order);
    barrier(CLK_LOCAL_MEM_FENCE);
    double reference = 0;
    if (number > 0) {
        const double middle = in_order[(number - 1) / 2], upper = in_order[number / 2];
        reference = fabs(upper) < fabs(middle) ? upper : middle;
    }
    for (int index = get_local_id(0); index < SAMPLE; index += get_local_size(0))
        values[index] = fabs(values[index] - reference);
    barrier(CLK_LOCAL_MEM_FENCE);
    sort(values, counts, in_order);
    barrier(CLK_LOCAL_MEM_FENCE);
    if (get_local_id(0) == 0) {
        const double weight = constants[rings + ring] / constants[ring];
        const double lift = LN_2 / weight;
        low = -INFINITY;
        high = INFINITY;
        if (number > 0) {
            const double scatter = MAD * in_order[(number - 1) / 2];
            const double window =
                lift + WINDOW * fmax(scatter, sqrt((fabs(reference) + lift) / weight));
            low = reference - window;
            high = reference + window;
        }
        phase = FIRST;
    }
    barrier(CLK_LOCAL_MEM_FENCE);

    // Of the first item: the ends of all bands so far, pixels between them, cycles begun.
    double bottom = -INFINITY, top = INFINITY;
    uint left = 0;
    int cycle = 0;
    while (phase != DONE) {
        const double least = low, most = high;
        const int first = phase == FIRST;
        for (uint lane = get_local_id(0); lane < LANES; lane += get_local_size(0)) {
            double sums[ALL_TERMS];
            for (int term = 0; term < ALL_TERMS; term++)
                sums[term] = 0;
            uint found = 0;
            for (uint entry = begin + lane; entry < end; entry += LANES) {
                PIXEL value;
                if (first)
                    sorted[entry] = value = pixels[order[entry]];
                else
                    value = sorted[entry];
                if (!usable(value, limits))
                    continue;
                found++;
                const double offset = dark[entry * DARK], weight = norm[entry * NORM];
                const double signal = (double)value - offset;
                sums[TOTAL] += signal;
#if NORM
                sums[TOTAL_WEIGHT] += weight;
                const double x = signal / weight;
#else
                const double x = signal;
#endif
                if (!(x >= least && x <= most))
                    continue;
                sums[NUMBER] += 1;
                sums[SIGNAL] += signal;
#if NORM
                sums[WEIGHT] += weight;
                sums[WEIGHT_SQUARED] += weight * weight;
#endif
#if MODEL == FORMULA
                sums[TERM] += fmax(formula[order[entry]], 0.0);
#elif MODEL == POISSON && DARK
                sums[TERM] += fmax(offset, 0.0);
#elif HAS_TERM
                sums[TERM] += fmax((double)value, 1.0);
#endif
#if HAS_SQUARES
                const double far = signal - reference * weight;
                sums[SHIFTED_WEIGHT] += far * weight;
                sums[SHIFTED_SQUARED] += far * far;
#endif
            }
            for (int term = 0; term < ALL_TERMS; term++)
                part[term * LANES + lane] = sums[term];
            usables[lane] = found;
        }
        REDUCE(part, ALL_TERMS);
        if (first)
            REDUCE(usables, 1);
        if (get_local_id(0) == 0) {
            const uint inside = (uint)part[NUMBER * LANES];
            int next = CYCLE;
            if (first) {
                left = usables[0];
                const double all = NORM ? part[TOTAL_WEIGHT * LANES] : left;
                vstore2(as_uint2(part[TOTAL * LANES]), ring, result + 3 * rings);
                vstore2(as_uint2(all), rings + ring, result + 3 * rings);
            }
            if (left == 0) {
                next = DONE;
            } else if (first && inside == 0) {
                next = ALL;
                low = -INFINITY;
                high = INFINITY;
            } else if (phase == REMAINS || (phase == CYCLE && inside == left)) {
                next = DONE;
            } else if (phase == CYCLE && inside == 0) {
                next = REMAINS;
            } else if (phase == CYCLE) {
                left = inside;
                bottom = least;
                top = most;
            }
            if (next == CYCLE && cycle == cycles)
                next = inside == left ? DONE : REMAINS;
            if (next == CYCLE) {
                const double mean = part[SIGNAL * LANES] / part[WEIGHT * LANES];
                const double deviation =
                    HAS_SQUARES ? by_scatter(part, reference) : by_variance(part);
                const double cut = fmax(cutoff, sqrt(2 * log(max(left, 3u) / ROOT_TWO_PI)));
                double below = cut * deviation, above = below;
#if MODEL == POISSON
                const double weight = part[WEIGHT_SQUARED * LANES] / part[WEIGHT * LANES];
                const double scaled = deviation * weight;
                const double2 reach =
                    limits_of_clipping(tables, rows, columns, cut, scaled * scaled);
                below = reach.x / weight;
                above = reach.y / weight;
#endif
                low = fmax(mean - below, bottom);
                high = fmin(mean + above, top);
                cycle++;
            } else if (next == REMAINS) {
                low = bottom;
                high = top;
            }
            phase = next;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    if (get_local_id(0) == 0) {
        float average = NAN, deviation = NAN;
        if (left > 0) {
            average = (float)(part[SIGNAL * LANES] / part[WEIGHT * LANES]);
            deviation =
                (float)(MODEL == AZIMUTHAL ? by_scatter(part, reference) : by_variance(part));
        }
        result[ring] = as_uint(average);
        result[rings + ring] = as_uint(deviation);
        result[2 * rings + ring] = left;
    }
}

// ----------------------------------------------------------------- thresholds

static inline int is_known(__global const float *background, int ring, int rings)
{
    return isfinite(background[ring]) && isfinite(background[rings + ring]);
}

// A background [2][rings] without its gaps: bridged linearly, constant at the ends.
static inline float2 bridged(__global const float *background, int ring, int rings)
{
    int before = ring, after = ring;
    while (before >= 0 && !is_known(background, before, rings))
        before--;
    while (after < rings && !is_known(background, after, rings))
        after++;
    if (before < 0 && after == rings)
        return (float2)(NAN, NAN);
    before = before < 0 ? after : before;
    after = after == rings ? before : after;
    float found[2];
    for (int which = 0; which < 2; which++) {
        const double from = background[which * rings + before];
        const double to = background[which * rings + after];
        found[which] = (float)from;
        if (after > before)
            found[which] = (float)((to - from) / (after - before) * (ring - before) + from);
    }
    return (float2)(found[0], found[1]);
}

// How far above the background a pixel stands out, in units of s / w.
static inline double distance_of(
    double average, double deviation, double norm, double dark, double cutoff, double noise,
    __global const double *table, int size)
{
#if MODEL == POISSON
    const double mean = fmax(average, 0.0) * norm + fmax(dark, 0.0);
    const double above = excess(table, size, cutoff, mean) / norm, lift = cutoff * noise;
    return fmax(noise, sqrt(above * above + lift * lift));
#else
    return fmax(noise, cutoff * sqrt(deviation * deviation + noise * noise));
#endif
}

// Of each ring the background without gaps, filled[2][rings], and what no pixel of it that
// stands out lies below, least[rings + 1]; the last one is for pixels on no ring.
__kernel void set_thresholds(
    __global const float *background, const int rings, __global const double *largest_norm,
    const double cutoff, const double noise, __global const double *table, const int size,
    __global float *filled, __global double *least)
{
    for (int ring = get_global_id(0); ring <= rings; ring += get_global_size(0)) {
        if (ring == rings) {
            least[ring] = INFINITY;
            continue;
        }
        const float2 here = bridged(background, ring, rings);
        filled[ring] = here.x;
        filled[rings + ring] = here.y;
        double average = here.x, deviation = here.y;
        for (int beside = max(ring - 1, 0); beside < min(ring + 2, rings); beside++) {
            const float2 there = bridged(background, beside, rings);
            average = fmin(average, (double)there.x);
            deviation = fmin(deviation, (double)there.y);
        }
        const double norm = largest_norm[ring] > 0 ? largest_norm[ring] : 1;
        const double far =
            distance_of(average, deviation, norm, 0, cutoff, noise, table, size);
        least[ring] = average - MARGIN * 0.01 * fabs(average) + far * (1 - MARGIN);
        if (isnan(average))
            least[ring] = INFINITY;
    }
}

// -------------------------------------------------------------------- picking

// Whether a pixel is saturated: see limits.py.
static inline int over_range(PIXEL value, __constant PIXEL *limits)
{
    return value > limits[1] && (value < limits[6] || value > limits[7]);
}

// The pixels that stand out of each segment of the frame: picked[segment][SEGMENT] in the
// order of their places, and their numbers. A work group for each segment. Of `saturated`,
// what is over its range on a ring is picked as well.
__kernel void pick_pixels(
    __global const PIXEL *pixels, const uint size, __constant PIXEL *limits,
    __global const RING *ring_of, __global const float *radius, __global const float *norm,
    __global const float *dark, const int rings, const double first, const double width,
    __global const float *filled, __global const double *least, const double cutoff,
    const double noise, __global const double *table, const int entries, const int saturated,
    __global uint *picked, __global uint *numbers)
{
    __local uint marks[SEGMENT / WORD], before[SEGMENT / WORD];
    const uint begin = get_group_id(0) * SEGMENT;
    const uint end = min(begin + SEGMENT, size);
    for (uint word = get_local_id(0); word < SEGMENT / WORD; word += get_local_size(0))
        marks[word] = 0;
    barrier(CLK_LOCAL_MEM_FENCE);

    for (uint pixel = begin + get_local_id(0); pixel < end; pixel += get_local_size(0)) {
        const PIXEL value = pixels[pixel];
        const double offset = dark[pixel * DARK], weight = norm[pixel * NORM];
        const double signal = (double)value - offset;
        if (!(signal >= least[ring_of[pixel]] * weight) && !over_range(value, limits))
            continue;
        if (!usable(value, limits)) {
            if (saturated && over_range(value, limits) && ring_of[pixel] < (uint)rings)
                atomic_or(&marks[(pixel - begin) / WORD], 1u << (pixel - begin) % WORD);
            continue;
        }
        double place = fmax(((double)radius[pixel] - first) / width, 0.0);
        place = fmin(place, (double)(rings - 1));
        const int ring = min((int)place, rings - 1), next = min(ring + 1, rings - 1);
        const double share = place - ring;
        const double average = filled[ring] * (1 - share) + filled[next] * share;
        const double deviation =
            filled[rings + ring] * (1 - share) + filled[rings + next] * share;
        const double far =
            distance_of(average, deviation, weight, offset, cutoff, noise, table, entries);
        if (signal / weight - average > far)
            // Whoever comes first, the word is the same in the end.
            atomic_or(&marks[(pixel - begin) / WORD], 1u << (pixel - begin) % WORD);
    }
    barrier(CLK_LOCAL_MEM_FENCE);

    // Number of marks before each word: sums over twice as many words at each step.
    for (uint word = get_local_id(0); word < SEGMENT / WORD; word += get_local_size(0))
        before[word] = popcount(marks[word]);
    for (uint reach = 1; reach < SEGMENT / WORD; reach *= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        for (uint pair = get_local_id(0); pair < SEGMENT / WORD / 2; pair += get_local_size(0)) {
            // The last word of a lower block is added to all words of the upper one.
            const uint block = pair / reach * 2 * reach;
            before[block + reach + pair % reach] += before[block + reach - 1];
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint word = get_local_id(0); word < SEGMENT / WORD; word += get_local_size(0)) {
        uint mark = marks[word], at = begin + before[word] - popcount(mark);
        for (; mark; mark &= mark - 1)
            picked[at++] = begin + word * WORD + (WORD - 1 - clz(mark & -mark));
    }
    if (get_local_id(0) == 0)
        numbers[get_group_id(0)] = before[SEGMENT / WORD - 1];
}

// Put the picked pixels of all segments one after another: kept[0] is their number.
__kernel void gather_picked(
    __global const uint *picked, __global const uint *numbers, __global uint *kept)
{
    __local uint sums[LANES];
    const uint segment = get_group_id(0), mine = numbers[segment];
    for (uint lane = get_local_id(0); lane < LANES; lane += get_local_size(0)) {
        sums[lane] = 0;
        for (uint other = lane; other < segment; other += LANES)
            sums[lane] += numbers[other];
    }
    REDUCE(sums, 1);
    for (uint index = get_local_id(0); index < mine; index += get_local_size(0))
        kept[1 + sums[0] + index] = picked[(size_t)segment * SEGMENT + index];
    if (get_local_id(0) == 0 && segment == get_num_groups(0) - 1)
        kept[0] = sums[0] + mine;
}
