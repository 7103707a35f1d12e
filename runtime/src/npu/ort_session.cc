/*!
 * \file npu/ort_session.cc
 * \brief Building and running of ONNX Runtime sessions on host memory.
 */
#include "ort_session.h"

#include <tvm/ffi/dtype.h>
#include <tvm/ffi/error.h>

#include <charconv>
#include <cstring>
#include <optional>
#include <sstream>

#include "../check.h"
#include "quiet_stdout.h"

namespace hetero_tvm::runtime::npu {
namespace {

namespace ffi = tvm::ffi;

constexpr const char* kQnnProvider = "QNNExecutionProvider";
constexpr const char* kQnnHint =
    "this model's NPU regions need Qualcomm's runtime: pip install onnxruntime-qnn==2.7.0";
constexpr int kLogErrorsOnly = 3;

/*! \brief ONNX's number for a type; 0 where it has none. */
int OnnxType(DLDataType type) {
  if (type.lanes != 1) return 0;
  struct Known {
    uint8_t code;
    uint8_t bits;
    int onnx;
  };
  constexpr Known kKnown[] = {
      {kDLFloat, 32, 1}, {kDLUInt, 8, 2},     {kDLInt, 8, 3},     {kDLUInt, 16, 4},
      {kDLInt, 16, 5},   {kDLInt, 32, 6},     {kDLInt, 64, 7},    {kDLBool, 8, 9},
      {kDLUInt, 1, 9},   {kDLFloat, 16, 10},  {kDLFloat, 64, 11}, {kDLUInt, 32, 12},
      {kDLUInt, 64, 13}, {kDLBfloat, 16, 16},
  };
  for (const Known& known : kKnown) {
    if (known.code == type.code && known.bits == type.bits) return known.onnx;
  }
  return 0;
}

bool HostVisible(DLDeviceType type) {
  return type == kDLCPU || type == kDLOpenCL || type == kDLExtDev;
}

bool IsDense(const DLTensor& tensor) {
  if (tensor.strides == nullptr) return true;
  int64_t expected = 1;
  for (int axis = tensor.ndim - 1; axis >= 0; --axis) {
    if (tensor.shape[axis] != 1 && tensor.strides[axis] != expected) return false;
    expected *= tensor.shape[axis];
  }
  return true;
}

std::string Describe(DLDataType dtype, const int64_t* shape, size_t axes) {
  std::ostringstream text;
  text << std::string(ffi::DLDataTypeToString(dtype)) << "[";
  for (size_t axis = 0; axis < axes; ++axis) text << (axis == 0 ? "" : ", ") << shape[axis];
  text << "]";
  return text.str();
}

void CheckTensor(const Region& region, const TensorSpec& spec, const DLTensor& tensor) {
  const auto axes = static_cast<size_t>(tensor.ndim);
  const bool same =
      OnnxType(tensor.dtype) == OnnxType(spec.dtype) && axes == spec.shape.size() &&
      (axes == 0 || std::memcmp(tensor.shape, spec.shape.data(), axes * sizeof(int64_t)) == 0);
  if (!same) {
    TVM_FFI_THROW(ValueError) << "NPU region " << region.symbol << ": tensor '" << spec.name
                              << "' is " << Describe(tensor.dtype, tensor.shape, axes) << ", not "
                              << Describe(spec.dtype, spec.shape.data(), spec.shape.size());
  }
  HETERO_CHECK(IsDense(tensor), ValueError)
      << "NPU region " << region.symbol << ": tensor '" << spec.name
      << "' has gaps between its elements; make it contiguous";
  HETERO_CHECK(HostVisible(tensor.device.device_type), ValueError)
      << "NPU region " << region.symbol << ": tensor '" << spec.name
      << "' lies on a device whose memory the NPU cannot see";
}

}  // namespace

const OrtApi& OrtEnvironment::Api() {
  const std::scoped_lock lock(mutex_);
  OpenLocked();
  return *api_;
}

void OrtEnvironment::OpenLocked() {
  if (host_memory_.Get() != nullptr) return;
  if (api_ == nullptr) api_ = OrtApi::Load(settings_.Get("ort.library"));
  OrtEnv* env = nullptr;
  api_->Check(api_->CreateEnv(kLogErrorsOnly, "hetero_tvm", &env), "starting ONNX Runtime");
  env_ = OrtHandle<OrtEnv>(env, api_->ReleaseEnv);
  constexpr int kArenaAllocator = 1;
  constexpr int kDefaultMemory = 0;
  OrtMemoryInfo* info = nullptr;
  api_->Check(api_->CreateCpuMemoryInfo(kArenaAllocator, kDefaultMemory, &info),
              "starting ONNX Runtime");
  host_memory_ = OrtHandle<OrtMemoryInfo>(info, api_->ReleaseMemoryInfo);
}

const std::vector<const OrtEpDevice*>& OrtEnvironment::QnnDevicesLocked() {
  if (!qnn_devices_.empty()) return qnn_devices_;
  const std::string library = settings_.Get("qnn.library");
  if (library.empty()) TVM_FFI_THROW(EnvironmentProblem) << kQnnHint;
  api_->Check(api_->RegisterExecutionProviderLibrary(env_.Get(), kQnnProvider, library.c_str()),
              "loading " + library);
  const OrtEpDevice* const* devices = nullptr;
  size_t count = 0;
  api_->Check(api_->GetEpDevices(env_.Get(), &devices, &count), "listing NPUs");
  for (size_t i = 0; i < count; ++i) {
    if (std::strcmp(api_->EpDevice_EpName(devices[i]), kQnnProvider) == 0) {
      qnn_devices_.push_back(devices[i]);
    }
  }
  if (qnn_devices_.empty()) {
    TVM_FFI_THROW(EnvironmentProblem) << library << " offers no NPU on this machine; " << kQnnHint;
  }
  return qnn_devices_;
}

void OrtEnvironment::AppendQnn(OrtSessionOptions* options, const Region& region) {
  std::map<std::string, std::string> settings = region.options;
  HETERO_CHECK(settings.count("soc_model") != 0, ValueError)
      << "NPU region " << region.symbol << ": provider qnn needs the option soc_model";
  settings.emplace("backend_path", settings_.Get("qnn.backend"));
  std::vector<const char*> keys;
  std::vector<const char*> values;
  for (const auto& [key, value] : settings) {
    keys.push_back(key.c_str());
    values.push_back(value.c_str());
  }
  const std::vector<const OrtEpDevice*>& devices = QnnDevicesLocked();
  api_->Check(api_->SessionOptionsAppendExecutionProvider_V2(options, env_.Get(), devices.data(),
                                                             devices.size(), keys.data(),
                                                             values.data(), keys.size()),
              "NPU region " + region.symbol);
}

OrtHandle<OrtSession> OrtEnvironment::CreateSession(const Region& region) {
  const std::string where = "NPU region " + region.symbol;
  const std::scoped_lock lock(mutex_);
  OpenLocked();
  OrtSessionOptions* raw_options = nullptr;
  api_->Check(api_->CreateSessionOptions(&raw_options), where);
  const OrtHandle<OrtSessionOptions> owner(raw_options, api_->ReleaseSessionOptions);
  api_->Check(api_->SetSessionLogSeverityLevel(raw_options, kLogErrorsOnly), where);
  if (region.provider == "qnn") {
    // A region that says NPU is on the NPU: without this, parts of it go to the CPU silently.
    api_->Check(api_->AddSessionConfigEntry(raw_options, "session.disable_cpu_ep_fallback", "1"),
                where);
    AppendQnn(raw_options, region);
  } else if (region.provider == "cpu") {
    const auto threads = region.options.find("threads");
    if (threads != region.options.end()) {
      int count = 0;
      const std::string& text = threads->second;
      const auto parsed = std::from_chars(text.data(), text.data() + text.size(), count);
      HETERO_CHECK(parsed.ec == std::errc() && parsed.ptr == text.data() + text.size(), ValueError)
          << where << ": option threads is '" << text << "', not a number";
      api_->Check(api_->SetIntraOpNumThreads(raw_options, count), where);
    }
    // Threads that spin after a run would take the processor from the OpenCL kernels that follow.
    api_->Check(api_->AddSessionConfigEntry(raw_options, "session.intra_op.allow_spinning", "0"),
                where);
  } else {
    TVM_FFI_THROW(ValueError) << where << ": unknown provider '" << region.provider
                              << "'; known: cpu, qnn";
  }
  std::optional<QuietStdout> quiet;
  if (region.provider == "qnn") quiet.emplace();
  OrtSession* session = nullptr;
  api_->Check(api_->CreateSessionFromArray(env_.Get(), region.model.data(), region.model.size(),
                                           raw_options, &session),
              where);
  counters_.npu_sessions.Add();
  return {session, api_->ReleaseSession};
}

RegionSession::RegionSession(OrtEnvironment& environment, const Region& region)
    : environment_(environment), region_(region) {
  for (const auto* specs : {&region.inputs, &region.outputs}) {
    for (const TensorSpec& spec : *specs) {
      HETERO_CHECK(OnnxType(spec.dtype) != 0, ValueError)
          << "NPU module: region " << region.symbol << ", tensor '" << spec.name
          << "': ONNX has no " << spec.dtype_name;
      bindings_.push_back({&spec, nullptr, {}});
      names_.push_back(spec.name.c_str());
    }
  }
}

void RegionSession::Prepare() {
  const std::scoped_lock lock(mutex_);
  PrepareLocked();
}

void RegionSession::PrepareLocked() {
  if (session_.Get() == nullptr) session_ = environment_.CreateSession(region_);
}

void RegionSession::Bind(Binding& binding, const DLTensor& tensor) {
  CheckTensor(region_, *binding.spec, tensor);
  char* data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  if (binding.data == data && binding.value.Get() != nullptr) return;
  const OrtApi& api = environment_.Api();
  OrtValue* value = nullptr;
  api.Check(api.CreateTensorWithDataAsOrtValue(
                environment_.host_memory(), data, binding.spec->bytes, binding.spec->shape.data(),
                binding.spec->shape.size(), OnnxType(binding.spec->dtype), &value),
            "NPU region " + region_.symbol + ", tensor '" + binding.spec->name + "'");
  binding.value = OrtHandle<OrtValue>(value, api.ReleaseValue);
  binding.data = data;
}

void RegionSession::Run(const std::vector<const DLTensor*>& tensors) {
  HETERO_CHECK(tensors.size() == bindings_.size(), TypeError)
      << "NPU region " << region_.symbol << " takes " << region_.inputs.size() << " inputs and "
      << region_.outputs.size() << " outputs, got " << tensors.size() << " tensors";
  const std::scoped_lock lock(mutex_);
  PrepareLocked();
  std::vector<OrtValue*> values;
  values.reserve(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    Bind(bindings_[i], *tensors[i]);
    values.push_back(bindings_[i].value.Get());
  }
  const size_t inputs = region_.inputs.size();
  std::unique_lock<std::mutex> npu(environment_.npu_mutex(), std::defer_lock);
  if (region_.provider == "qnn") npu.lock();
  const OrtApi& api = environment_.Api();
  api.Check(api.Run(session_.Get(), nullptr, names_.data(), values.data(), inputs,
                    names_.data() + inputs, region_.outputs.size(), values.data() + inputs),
            "NPU region " + region_.symbol);
}

}  // namespace hetero_tvm::runtime::npu
