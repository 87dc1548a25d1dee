// Transparent huge pages of this process, which Node.js cannot refuse by itself.
#include <errno.h>
#include <node_api.h>
#include <stdbool.h>
#include <sys/prctl.h>

static napi_value Number(napi_env env, int32_t number) {
  napi_value value;
  napi_create_int32(env, number, &value);
  return value;
}

// allowed(): 1 or 0, or -errno.
static napi_value Allowed(napi_env env, napi_callback_info info) {
  (void)info;
  int disabled = prctl(PR_GET_THP_DISABLE, 0UL, 0UL, 0UL, 0UL);
  return Number(env, disabled < 0 ? -errno : disabled == 0);
}

// allow(whether): errno, 0 if it was set.
static napi_value Allow(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value args[1];
  bool allowed;
  if (napi_get_cb_info(env, info, &count, args, NULL, NULL) != napi_ok || count != 1 ||
      napi_get_value_bool(env, args[0], &allowed) != napi_ok) {
    napi_throw_type_error(env, NULL, "not a boolean");
    return NULL;
  }
  return Number(env, prctl(PR_SET_THP_DISABLE, allowed ? 0UL : 1UL, 0UL, 0UL, 0UL) < 0 ? errno : 0);
}

NAPI_MODULE_INIT() {
  const struct {
    const char* name;
    napi_callback call;
  } calls[] = {{"allowed", Allowed}, {"allow", Allow}};
  for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
    napi_value function;
    if (napi_create_function(env, calls[i].name, NAPI_AUTO_LENGTH, calls[i].call, NULL, &function) != napi_ok) return NULL;
    napi_set_named_property(env, exports, calls[i].name, function);
  }
  return exports;
}
