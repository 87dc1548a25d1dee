// What the parts of the binding share.
#pragma once

#include <napi.h>

#include "tap.h"

namespace taphold {

Napi::Error MakeError(Napi::Env env, const SysError& failed);

// The class InputLog.
Napi::Function DefineInputLog(Napi::Env env);

}  // namespace taphold
