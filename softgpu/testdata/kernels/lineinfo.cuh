__device__ __forceinline__ void put(int* at, int i)
{
    at[i] = i;
}
