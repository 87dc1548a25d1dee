// A QEMU plugin for the end of a COLO pair that is, or will be, the secondary
// under emulation (TCG).
//
// It makes the secondary forget its translated code whenever it stops for a
// checkpoint.
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
//
// And with hold=FILE, as long as there is such a file, the secondary is paused
// at each load before it has run.  COLO sets it running even if it was paused,
// and until somebody hears of that and pauses it again it takes CPU time from
// whoever waits for the checkpoint, and translates code for nobody.
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

// Of QEMU's plugin interface, and of QEMU itself, which exports all that its
// own modules may need.
typedef uint64_t qemu_plugin_id_t;
struct qemu_info_t;
struct enum_lookup;
void *qemu_add_vm_change_state_handler_prio(void (*changed)(void *opaque, bool running, int state), void *opaque,
                                            int priority);
int vm_stop(int state);
bool migration_incoming_in_colo_state(void);
void tb_flush__exclusive_or_serial(void);
int qapi_enum_parse(const struct enum_lookup *lookup, const char *name, int otherwise, void **error);
extern const struct enum_lookup RunState_lookup;

#define EXPORT __attribute__((visibility("default")))

// The only one that QEMU 11.1 accepts.
EXPORT int qemu_plugin_version = 7;

static const char *hold;
static int for_checkpoint, paused;

// Called with all vCPUs stopped: on the way to a stop, and before they run.
static void changed(void *opaque, bool running, int state) {
  (void)opaque;
  if (!migration_incoming_in_colo_state()) return;
  if (running) {
    // QEMU looks once more whether the VM is to run after all before it lets the vCPUs go.
    if (hold && access(hold, F_OK) == 0) vm_stop(paused);
  } else if (state == for_checkpoint) {
    tb_flush__exclusive_or_serial();
  }
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info_t *info, int argc, char **argv) {
  (void)id;
  (void)info;
  for (int i = 0; i < argc; i++) {
    if (strncmp(argv[i], "hold=", 5) != 0) return -1;
    hold = strdup(argv[i] + 5);
  }
  for_checkpoint = qapi_enum_parse(&RunState_lookup, "colo", -1, 0);
  paused = qapi_enum_parse(&RunState_lookup, "paused", -1, 0);
  if (for_checkpoint < 0 || paused < 0) return -1;
  // The last to hear that the VM is to run: all devices are ready then, as at any other pause.
  qemu_add_vm_change_state_handler_prio(changed, 0, INT_MAX);
  return 0;
}
