/*!
 * \file remote_calls.cc
 * \brief Timing, recording and looking around where a model runs, for a caller that is elsewhere.
 *
 * A caller behind TVM's RPC cannot time or record through it: the way there would be in every
 * figure. So each of these does a whole measurement and answers with one text of JSON.
 */
#include "remote_calls.h"

#include <glob.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/string.h>

#include <chrono>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

#include "border.h"
#include "check.h"
#include "imported.h"

namespace hetero_tvm::runtime {
namespace {

namespace ffi = tvm::ffi;
using Clock = std::chrono::steady_clock;

constexpr size_t kMostFiles = 4096;
constexpr std::streamsize kMostBytesOfFile = 1 << 16;

int64_t Nanoseconds(Clock::time_point at) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(at.time_since_epoch()).count();
}

ffi::String JsonOf(const char* function) { return ffi::json::Stringify(Imported(function)()); }

/*! \brief Milliseconds of each of `runs` calls of `function`, whose inputs are set, as JSON. */
ffi::String Measure(const ffi::Module& machine, const ffi::String& function, int64_t runs) {
  const ffi::Function invoke = FunctionOf(machine, "invoke_stateful");
  const ffi::Function sync = Imported("hetero_tvm.sync");
  ffi::Array<ffi::Any> times;
  for (int64_t i = 0; i < runs; ++i) {
    const auto begin = Clock::now();
    invoke(function);
    sync();
    const std::chrono::duration<double, std::milli> took = Clock::now() - begin;
    times.push_back(took.count());
  }
  return ffi::json::Stringify(times);
}

/*! \brief RecordRuns of `function`, whose inputs are set. */
ffi::String Record(const ffi::Module& machine, const ffi::String& function, int64_t runs,
                   int64_t events_per_thread) {
  const ffi::Function invoke = FunctionOf(machine, "invoke_stateful");
  const ffi::Function sync = Imported("hetero_tvm.sync");
  return RecordRuns(machine, runs, events_per_thread, [&] {
    Noted(std::string(function), [&] {
      invoke(function);
      sync();
    });
  });
}

/*! \brief Path -> first bytes, as JSON, of the files below /sys and /proc that match a pattern. */
ffi::String ReadFiles(const ffi::String& patterns) {
  ffi::Map<ffi::String, ffi::Any> found;
  std::istringstream lines{std::string(patterns)};
  for (std::string pattern; std::getline(lines, pattern);) {
    const bool is_kernels = pattern.rfind("/sys/", 0) == 0 || pattern.rfind("/proc/", 0) == 0;
    HETERO_CHECK(is_kernels && pattern.find("..") == std::string::npos, ValueError)
        << pattern << ": only files below /sys and /proc are read for others";
    glob_t paths{};
    if (glob(pattern.c_str(), 0, nullptr, &paths) == 0) {
      for (size_t i = 0; i < paths.gl_pathc && found.size() < kMostFiles; ++i) {
        std::ifstream file(paths.gl_pathv[i], std::ios::binary);
        std::string text(kMostBytesOfFile, '\0');
        file.read(text.data(), kMostBytesOfFile);
        text.resize(static_cast<size_t>(file.gcount()));
        found.Set(ffi::String(paths.gl_pathv[i]), ffi::String(text));
      }
    }
    globfree(&paths);
  }
  return ffi::json::Stringify(found);
}

}  // namespace

void Noted(const std::string& name, const std::function<void()>& function) {
  const int64_t start = Nanoseconds(Clock::now());
  function();
  Imported("hetero_tvm.trace_function")(ffi::String(name), start, Nanoseconds(Clock::now()));
}

ffi::String RecordRuns(const ffi::Module& machine, int64_t runs, int64_t events_per_thread,
                       const std::function<void()>& run) {
  const ffi::Function instrument = FunctionOf(machine, "set_instrument");
  Imported("hetero_tvm.trace_start")(events_per_thread);
  instrument(ffi::Function::GetGlobalRequired("hetero_tvm.trace_instrument"));
  ffi::Array<ffi::Any> bounds;
  for (int64_t i = 0; i <= runs; ++i) {
    const int64_t start = Nanoseconds(Clock::now());
    run();
    const int64_t end = Nanoseconds(Clock::now());
    if (i > 0) bounds.push_back(ffi::Array<ffi::Any>{start, end});
  }
  instrument(nullptr);
  ffi::Map<ffi::String, ffi::Any> found;
  found.Set("rows", Imported("hetero_tvm.trace_stop")());
  found.Set("bounds", bounds);
  return ffi::json::Stringify(found);
}

TVM_FFI_STATIC_INIT_BLOCK() {
  GlobalNames()
      .Typed("hetero_tvm.measure", Measure)
      .Typed("hetero_tvm.record", Record)
      .Typed("hetero_tvm.files_json", ReadFiles)
      .Typed("hetero_tvm.counters_json", [] { return JsonOf("hetero_tvm.counters_read"); })
      .Typed("hetero_tvm.opencl_devices_json", [] { return JsonOf("hetero_tvm.opencl_devices"); });
}

}  // namespace hetero_tvm::runtime
