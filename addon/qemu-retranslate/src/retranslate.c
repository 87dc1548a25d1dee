// A QEMU plugin that makes a secondary under emulation (TCG) forget its
// translated code whenever it stops for a checkpoint.
//
// Loading a checkpoint overwrites the guest's memory behind the back of TCG,
// which notices writes only where it makes them itself.  Code that the guest of
// an active secondary had run before would run again as it was, although other
// code is there now: the guest crashes, or worse.  QEMU knows of this, and
// forgets all translations, where a snapshot is loaded (tcg_vm_change_state),
// but not in COLO (seen in 11.1; up to 10.0 each loaded CPU did it).
//
// Between the stop and the end of the load no guest code runs, so nothing
// outdated is translated anew.  A primary keeps its translations: they are right.
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

// Of QEMU's plugin interface, and of QEMU itself, which exports all that its
// own modules may need.
typedef uint64_t qemu_plugin_id_t;
struct qemu_info_t;
struct enum_lookup;
void *qemu_add_vm_change_state_handler(void (*changed)(void *opaque, bool running, int state), void *opaque);
bool migration_incoming_in_colo_state(void);
void tb_flush__exclusive_or_serial(void);
const char *qapi_enum_lookup(const struct enum_lookup *lookup, int value);
extern const struct enum_lookup RunState_lookup;

#define EXPORT __attribute__((visibility("default")))

// The only one that QEMU 11.1 accepts.
EXPORT int qemu_plugin_version = 7;

// Called with all vCPUs stopped.
static void changed(void *opaque, bool running, int state) {
  (void)opaque;
  if (running || !migration_incoming_in_colo_state()) return;
  if (strcmp(qapi_enum_lookup(&RunState_lookup, state), "colo") == 0) tb_flush__exclusive_or_serial();
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info_t *info, int argc, char **argv) {
  (void)id;
  (void)info;
  (void)argc;
  (void)argv;
  qemu_add_vm_change_state_handler(changed, 0);
  return 0;
}
