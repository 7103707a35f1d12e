/*!
 * \file npu/context_folder.h
 * \brief Files that ONNX Runtime wants to find on disk: binaries that several regions share.
 *
 * A compiled region whose binary is not inside its model names a file beside the model. Regions of
 * one module that name the same file have one set of weights, and find it under one path only.
 */
#ifndef HETERO_TVM_RUNTIME_NPU_CONTEXT_FOLDER_H_
#define HETERO_TVM_RUNTIME_NPU_CONTEXT_FOLDER_H_

#include <filesystem>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace hetero_tvm::runtime::npu {

/*! \brief A named piece of an NPU module. */
struct SharedFile {
  std::string name;
  std::string_view content;
};

/*! \brief A module's binaries, written to the cache when they are first needed. Thread-safe. */
class ContextFolder {
 public:
  /*! \brief Throws ValueError for a name that is more than a file's name. */
  explicit ContextFolder(std::vector<SharedFile> files);

  /*!
   * \brief Put `model` as `name` beside the files, under `cache`; its path.
   *
   * What lies there already is kept where it is the same, byte by byte. Throws EnvironmentProblem
   * when `cache` is empty or cannot be written.
   */
  std::filesystem::path Place(const std::string& cache, const std::string& name,
                              std::string_view model);

 private:
  const std::vector<SharedFile> files_;
  const std::string key_;
  std::mutex mutex_;  // guards written_; taken while the files are written
  std::filesystem::path written_;
};

}  // namespace hetero_tvm::runtime::npu

#endif  // HETERO_TVM_RUNTIME_NPU_CONTEXT_FOLDER_H_
