// What the comparator finds, for JavaScript.
#pragma once

#include <napi.h>

#include <vector>

#include "compare.h"

namespace taphold {

Napi::Value ReportEvents(Napi::Env env, const std::vector<CompareEvent>& events);
Napi::Value ReportStats(Napi::Env env, const CompareStats& stats);

}  // namespace taphold
