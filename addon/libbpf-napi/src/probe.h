// What the running kernel can do, found out by trying.
#pragma once

#include <napi.h>

namespace libbpf_napi {

// probeProgramType(type), probeMapType(type), probeHelper(programType, helper):
// 1 yes, 0 no, a negative errno when it could not be told.
Napi::Value ProbeProgramType(const Napi::CallbackInfo& info);
Napi::Value ProbeMapType(const Napi::CallbackInfo& info);
Napi::Value ProbeHelper(const Napi::CallbackInfo& info);

// names(): {mapTypes, programTypes, helpers}, each an array of names by number.
Napi::Value Names(const Napi::CallbackInfo& info);

}  // namespace libbpf_napi
