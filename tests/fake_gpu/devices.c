/* What the autograd engine asks of CUDA before it goes backward: how many devices there are, and whether one
   of them was ever used. `fake_devices(8)` says eight, none used; 0 is the truth. Loaded ahead of torch's
   own libraries (LD_PRELOAD), under the name of the driver's. */
static signed char devices = 0;
void fake_devices(int count) { devices = count; }
signed char _ZN3c104cuda12device_countEv(void) { return devices; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active)
{
    (void)device;
    *flags = 0;
    *active = 0;
    return 0;
}
