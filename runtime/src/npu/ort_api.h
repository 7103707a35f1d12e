/*!
 * \file npu/ort_api.h
 * \brief The part of ONNX Runtime's C interface that the runtime uses, loaded with dlopen.
 *
 * No wheel carries ONNX Runtime's headers. Its function table only grows at the end, so a function
 * is known by its slot for good; the slots are those of interface version 23.
 */
#ifndef HETERO_TVM_RUNTIME_NPU_ORT_API_H_
#define HETERO_TVM_RUNTIME_NPU_ORT_API_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "../watch.h"

namespace hetero_tvm::runtime::npu {

struct OrtStatus;
struct OrtEnv;
struct OrtSession;
struct OrtSessionOptions;
struct OrtRunOptions;
struct OrtMemoryInfo;
struct OrtValue;
struct OrtEpDevice;
struct OrtPrepackedWeightsContainer;
using OrtPathChar = std::filesystem::path::value_type;  // ORTCHAR_T: wide on Windows

/*! \brief X(slot, result, name, parameters). A returned OrtStatus is null for success. */
#define HETERO_ORT_FUNCTIONS(X)                                                                   \
  X(2, const char*, GetErrorMessage, (const OrtStatus*))                                          \
  X(3, OrtStatus*, CreateEnv, (int, const char*, OrtEnv**))                                       \
  X(7, OrtStatus*, CreateSession,                                                                 \
    (const OrtEnv*, const OrtPathChar*, const OrtSessionOptions*, OrtSession**))                  \
  X(8, OrtStatus*, CreateSessionFromArray,                                                        \
    (const OrtEnv*, const void*, size_t, const OrtSessionOptions*, OrtSession**))                 \
  X(9, OrtStatus*, Run,                                                                           \
    (OrtSession*, const OrtRunOptions*, const char* const*, const OrtValue* const*, size_t,       \
     const char* const*, size_t, OrtValue**))                                                     \
  X(10, OrtStatus*, CreateSessionOptions, (OrtSessionOptions**))                                  \
  X(22, OrtStatus*, SetSessionLogSeverityLevel, (OrtSessionOptions*, int))                        \
  X(23, OrtStatus*, SetSessionGraphOptimizationLevel, (OrtSessionOptions*, int))                  \
  X(24, OrtStatus*, SetIntraOpNumThreads, (OrtSessionOptions*, int))                              \
  X(49, OrtStatus*, CreateTensorWithDataAsOrtValue,                                               \
    (const OrtMemoryInfo*, void*, size_t, const int64_t*, size_t, int, OrtValue**))               \
  X(69, OrtStatus*, CreateCpuMemoryInfo, (int, int, OrtMemoryInfo**))                             \
  X(92, void, ReleaseEnv, (OrtEnv*))                                                              \
  X(93, void, ReleaseStatus, (OrtStatus*))                                                        \
  X(94, void, ReleaseMemoryInfo, (OrtMemoryInfo*))                                                \
  X(95, void, ReleaseSession, (OrtSession*))                                                      \
  X(96, void, ReleaseValue, (OrtValue*))                                                          \
  X(100, void, ReleaseSessionOptions, (OrtSessionOptions*))                                       \
  X(130, OrtStatus*, AddSessionConfigEntry, (OrtSessionOptions*, const char*, const char*))       \
  X(150, OrtStatus*, AddInitializer, (OrtSessionOptions*, const char*, const OrtValue*))          \
  X(166, OrtStatus*, CreatePrepackedWeightsContainer, (OrtPrepackedWeightsContainer**))           \
  X(167, void, ReleasePrepackedWeightsContainer, (OrtPrepackedWeightsContainer*))                 \
  X(169, OrtStatus*, CreateSessionFromArrayWithPrepackedWeightsContainer,                         \
    (const OrtEnv*, const void*, size_t, const OrtSessionOptions*, OrtPrepackedWeightsContainer*, \
     OrtSession**))                                                                               \
  X(210, OrtStatus*, AddExternalInitializers,                                                     \
    (OrtSessionOptions*, const char* const*, const OrtValue* const*, size_t))                     \
  X(279, OrtStatus*, AddExternalInitializersFromFilesInMemory,                                    \
    (OrtSessionOptions*, const char* const*, char* const*, const size_t*, size_t))                \
  X(301, OrtStatus*, RegisterExecutionProviderLibrary, (OrtEnv*, const char*, const char*))       \
  X(303, OrtStatus*, GetEpDevices, (const OrtEnv*, const OrtEpDevice* const**, size_t*))          \
  X(304, OrtStatus*, SessionOptionsAppendExecutionProvider_V2,                                    \
    (OrtSessionOptions*, OrtEnv*, const OrtEpDevice* const*, size_t, const char* const*,          \
     const char* const*, size_t))                                                                 \
  X(312, const char*, EpDevice_EpName, (const OrtEpDevice*))

/*! \brief ONNX Runtime's functions by name. Never unloaded. */
struct OrtApi {
  std::string version;
#define HETERO_ORT_DECLARE(slot, result, name, parameters) Watched<result parameters> name;
  HETERO_ORT_FUNCTIONS(HETERO_ORT_DECLARE)
#undef HETERO_ORT_DECLARE

  /*! \brief Throws EnvironmentProblem when `library` cannot be loaded or is too old. */
  static std::unique_ptr<const OrtApi> Load(const std::string& library);

  /*! \brief Throw DeviceFailure "<what>: <ONNX Runtime's message>" when `status` is a failure. */
  void Check(OrtStatus* status, const std::string& what) const;

  /*! \brief The same for a call that made `made`: none is a failure too. */
  template <typename T>
  void Check(OrtStatus* status, T* const& made, const std::string& what) const {
    Check(status, what);
    if (made == nullptr) NothingMade(what);  // a reference: arguments have no order
  }

 private:
  [[noreturn]] static void NothingMade(const std::string& what);
};

/*! \brief Sole owner of one ONNX Runtime object: moves, never copies. */
template <typename T>
class OrtHandle {
 public:
  using Release = Watched<void(T*)>;  // of an OrtApi, which is never unloaded
  OrtHandle() = default;
  OrtHandle(T* object, const Release& release) : object_(object), release_(&release) {}
  OrtHandle(OrtHandle&& other) noexcept
      : object_(std::exchange(other.object_, nullptr)), release_(other.release_) {}
  OrtHandle& operator=(OrtHandle&& other) noexcept {
    std::swap(object_, other.object_);
    std::swap(release_, other.release_);
    return *this;
  }
  OrtHandle(const OrtHandle&) = delete;
  OrtHandle& operator=(const OrtHandle&) = delete;
  ~OrtHandle() {
    if (object_ != nullptr) (*release_)(object_);
  }
  T* Get() const { return object_; }

 private:
  T* object_ = nullptr;
  const Release* release_ = nullptr;
};

}  // namespace hetero_tvm::runtime::npu

#endif  // HETERO_TVM_RUNTIME_NPU_ORT_API_H_
