/*!
 * \file module.cc
 * \brief Every name by which TVM and Python reach the runtime, and nothing else.
 */
#include <tvm/ffi/cast.h>

#include "border.h"
#include "check.h"
#include "context.h"
#include "crash_report.h"
#include "opencl/kernel_table.h"
#include "opencl/opencl_module.h"
#include "opencl/timer.h"
#include "shared_module.h"
#include "signature.h"
#include "tensor_view.h"
#include "whole_call.h"

namespace hetero_tvm::runtime {
namespace {

namespace ffi = tvm::ffi;

constexpr int64_t kNoSoc = -1;

ffi::Module LoadOpenCl(const ffi::Bytes& bytes) {
  auto table = opencl::KernelTable::Parse({bytes.data(), bytes.size()});
  return ffi::Module(
      ffi::make_object<opencl::OpenClModule>(Context::Get().opencl, std::move(table)));
}

/*! \brief Called by TVM's code generator; makes a fresh build runnable without saving it first. */
ffi::Module CreateOpenCl(const ffi::Bytes& code, const ffi::String& format,
                         const ffi::Map<ffi::String, ffi::ObjectRef>& functions,
                         const ffi::Any& /*source*/) {
  auto table = opencl::KernelTable::FromCompiler({code.data(), code.size()},
                                                 {format.data(), format.size()}, functions);
  return ffi::Module(
      ffi::make_object<opencl::OpenClModule>(Context::Get().opencl, std::move(table)));
}

ffi::Module LoadNpu(const ffi::Bytes& bytes) {
  return npu::NpuModule::Load(Context::Get().npu, bytes);
}

ffi::Module CreateNpu(const ffi::String& header, const ffi::Array<ffi::Bytes>& models) {
  return npu::NpuModule::Create(Context::Get().npu, header, models);
}

/*! \brief Build what `module` and its imports would otherwise build at their first call. */
void Prepare(const ffi::Module& module) {
  const std::string kind = module->kind();
  if (kind == npu::NpuModule::kKind) {
    static_cast<npu::NpuModule*>(module.operator->())->Prepare();
  } else if (kind == opencl::OpenClModule::kKind) {
    static_cast<opencl::OpenClModule*>(module.operator->())->Prepare();
  }
  for (const ffi::Any& imported : module->imports()) Prepare(imported.cast<ffi::Module>());
}

/*! \brief Give the NPU modules among `module` and its imports the artefact's weights. */
void MapWeights(const ffi::Module& module, const ffi::String& path, int64_t offset, int64_t bytes) {
  HETERO_CHECK(offset >= 0 && bytes > 0, ValueError)
      << "weights of " << bytes << " bytes at " << offset;
  if (module->kind() == std::string(npu::NpuModule::kKind)) {
    static_cast<npu::NpuModule*>(module.operator->())
        ->MapWeights(std::string(path), static_cast<uint64_t>(offset),
                     static_cast<uint64_t>(bytes));
  }
  for (const ffi::Any& imported : module->imports()) {
    MapWeights(imported.cast<ffi::Module>(), path, offset, bytes);
  }
}

/*! \brief Record what happens from now on; kernels that are queued are waited for. */
void StartTrace(int64_t events_per_thread) {
  Context& context = Context::Get();
  HETERO_CHECK(events_per_thread > 0, ValueError)
      << "a trace of " << events_per_thread << " events";
  context.trace.Start(static_cast<size_t>(events_per_thread));
  context.opencl.SetProfilingIfOpen(true);
}

/*! \brief Wait for all work, stop recording, and give what was recorded; see Trace::Take. */
ffi::Array<ffi::Any> StopTrace() {
  Context& context = Context::Get();
  context.ordering.WaitForAll();
  context.opencl.SetProfilingIfOpen(false);
  context.trace.Stop();
  return context.trace.Take();
}

/*! \brief Refuse an artefact that is not signed, where this machine accepts only signed ones. */
void CheckTrusted(const ffi::String& name, const ffi::Bytes& footer, const ffi::Bytes& block) {
  const std::string trusted = Context::Get().settings.Get("trusted.keys");
  if (trusted.empty()) return;
  CheckSignature(std::string(name), std::string(footer), std::string(block), trusted);
}

void SetSetting(const ffi::String& key, const ffi::String& value) {
  Context& context = Context::Get();
  const std::string name(key);
  const bool is_of_opencl = name.rfind("opencl.", 0) == 0 || name.rfind("cache.", 0) == 0;
  HETERO_CHECK(!is_of_opencl || !context.opencl.IsOpen(), ValueError)
      << name << " cannot change any more: the OpenCL device is in use";
  context.settings.Set(name, std::string(value));
  context.options.ReadFrom(context.settings);
}

ffi::Map<ffi::String, int64_t> ReadCounters() {
  const Counters& counters = Context::Get().counters;
  ffi::Map<ffi::String, int64_t> values;
#define HETERO_READ_COUNTER(name) values.Set(#name, counters.name.Value());
  HETERO_COUNTERS(HETERO_READ_COUNTER)
#undef HETERO_READ_COUNTER
  return values;
}

void ResetCounters() {
  Counters& counters = Context::Get().counters;
#define HETERO_RESET_COUNTER(name) counters.name.Reset();
  HETERO_COUNTERS(HETERO_RESET_COUNTER)
#undef HETERO_RESET_COUNTER
}

}  // namespace

TVM_FFI_STATIC_INIT_BLOCK() {
  GlobalNames()
      // What TVM looks up.
      .Packed(
          "device_api.opencl",
          [](ffi::PackedArgs, ffi::Any* rv) { *rv = static_cast<void*>(&Context::Get().opencl); })
      .Packed("device_api.ext_dev",
              [](ffi::PackedArgs, ffi::Any* rv) {
                *rv = static_cast<void*>(&Context::Get().null_device);
              })
      .Typed("ffi.Module.load_from_bytes.opencl", LoadOpenCl)
      .Typed("ffi.Module.create.opencl", CreateOpenCl)
      .Typed("ffi.Module.load_from_bytes.hetero_npu", LoadNpu)
      .Typed("runtime.timer.opencl",
             [](DLDevice) {
               return ffi::ObjectRef(ffi::make_object<opencl::OpenClTimer>(Context::Get().opencl));
             })
      // What hetero_tvm/runtime.py and compiled modules call.
      .Typed("hetero_tvm.setting_set", SetSetting)
      .Typed("hetero_tvm.signature_check", CheckTrusted)
      .Typed("hetero_tvm.fallbacks", [] { return Context::Get().fallbacks.Told(); })
      .Typed("hetero_tvm.fallback_tell",
             [](const ffi::String& what) { Context::Get().fallbacks.Tell(std::string(what)); })
      .Typed("hetero_tvm.soc_id",
             [] { return npu::SocId(Context::Get().settings).value_or(kNoSoc); })
      .Typed("hetero_tvm.crash_report",
             [](int64_t fd) { CrashReport::Install(static_cast<int>(fd)); })
      .Typed("hetero_tvm.opencl_devices", [] { return Context::Get().opencl.Describe(); })
      .Typed("hetero_tvm.opencl_open", [] { Context::Get().opencl.Session(); })
      // Takes anything and returns its first argument, so that a pass can hang it into the data
      // flow.
      .Packed("hetero_tvm.gpu_wait",
              [](ffi::PackedArgs args, ffi::Any* rv) {
                Context::Get().opencl.WaitIfOpen();
                if (args.size() > 0) *rv = args[0];
              })
      .Packed("hetero_tvm.wait",  // waiter, on, and how many of its last jobs not
              [](ffi::PackedArgs args, ffi::Any*) {
                HETERO_CHECK(args.size() == 2 || args.size() == 3, TypeError)
                    << "wait takes two or three numbers, got " << args.size();
                const int64_t behind = args.size() == 3 ? args[2].cast<int64_t>() : 0;
                Context::Get().ordering.Wait(args[0].cast<int64_t>(), args[1].cast<int64_t>(),
                                             behind);
              })
      .Typed("hetero_tvm.gpu_share",  // in millionths of the GPU's time
             [](int64_t share) { SyncOptions::TakeGpuShare(static_cast<double>(share) / 1e6); })
      .Typed("hetero_tvm.sync", [] { Context::Get().ordering.WaitForAll(); })
      .Packed("hetero_tvm.whole_call",  // a function and its arguments
              [](ffi::PackedArgs args, ffi::Any* rv) {
                HETERO_CHECK(args.size() > 0, TypeError) << "whole_call takes a function";
                const ffi::Function function = Shielded(args[0].cast<ffi::Function>());
                *rv = WholeCall(Context::Get(), function, args.data() + 1, args.size() - 1);
              })
      .Typed("hetero_tvm.load_module",
             [](const ffi::String& path) { return LoadModule(std::string(path)); })
      .Typed("hetero_tvm.settle", [] { Context::Get().ordering.Settle(); })
      .Typed("hetero_tvm.opencl_held_bytes",
             [] { return static_cast<int64_t>(Context::Get().opencl.HeldBytesIfOpen()); })
      .Typed("hetero_tvm.view", ViewTensor)
      .Typed("hetero_tvm.view_as", ViewTensorAs)
      .Typed("hetero_tvm.weights_map",
             [](const ffi::String& path, int64_t offset, int64_t bytes) {
               return Context::Get().opencl.MapFile(path, offset, bytes);
             })
      .Typed("hetero_tvm.npu_module_create", CreateNpu)
      .Typed("hetero_tvm.npu_module_prepare", Prepare)
      .Typed("hetero_tvm.npu_weights_map", MapWeights)
      .Typed("hetero_tvm.module_prepare", Prepare)
      .Typed("hetero_tvm.module_bytes",
             [](const ffi::Module& module) { return module->SaveToBytes(); })
      .Typed("hetero_tvm.counters_read", ReadCounters)
      .Typed("hetero_tvm.counters_reset", ResetCounters)
      .Typed("hetero_tvm.trace_start", StartTrace)
      .Typed("hetero_tvm.trace_stop", StopTrace)
      .Packed("hetero_tvm.trace_instrument",
              [](ffi::PackedArgs args, ffi::Any* rv) { Context::Get().trace.Instrument(args, rv); })
      .Typed("hetero_tvm.trace_function",
             [](const ffi::String& name, int64_t start_ns, int64_t end_ns) {
               Context::Get().trace.Record(
                   {TraceKind::kFunction, std::string(name), start_ns, end_ns, -1, 0});
             })
      .Typed("hetero_tvm.tensor_address",
             [](DLTensor* tensor) {
               return reinterpret_cast<int64_t>(tensor->data) +
                      static_cast<int64_t>(tensor->byte_offset);
             })
      .Typed("hetero_tvm.null_device_configure",
             [](int64_t latency_us, int64_t fail_launches, int64_t memory_bytes) {
               Context::Get().null_device.Configure({latency_us, fail_launches, memory_bytes});
             })
      .Typed("hetero_tvm.null_device_add_one", [](DLTensor* in, DLTensor* out) {
        Context::Get().null_device.LaunchAddOne(*in, *out);
      });
}

}  // namespace hetero_tvm::runtime
