/*!
 * \file npu/weight_part.h
 * \brief Weights of NPU regions that lie in the artefact behind its code, mapped.
 *
 * The sessions of a module read the same pages, and share what ONNX Runtime makes of them: a weight
 * that it packs for its products is packed once, however many regions use it.
 */
#ifndef HETERO_TVM_RUNTIME_NPU_WEIGHT_PART_H_
#define HETERO_TVM_RUNTIME_NPU_WEIGHT_PART_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "ort_api.h"

namespace hetero_tvm::runtime::npu {

struct OutsideWeight;

/*! \brief The weight part of one artefact. Thread-safe. */
class WeightPart {
 public:
  /*! \brief What a region's model calls it, as ONNX's external data. */
  static constexpr const char* kFileName = "weight_part";

  WeightPart() = default;
  WeightPart(const WeightPart&) = delete;
  WeightPart& operator=(const WeightPart&) = delete;
  ~WeightPart();

  /*!
   * \brief Map `bytes` at `offset`, a multiple of the page size, of the file at `path`.
   *
   * Does nothing where that was done. Throws EnvironmentProblem when it cannot be mapped.
   */
  void Map(const std::string& path, uint64_t offset, uint64_t bytes);

  /*! \brief All of it. Throws ValueError before Map(). */
  std::string_view Content();

  /*!
   * \brief `weight` as ONNX Runtime's value on the mapped memory; made once, valid as long as this.
   *
   * Throws ValueError when it does not lie inside.
   */
  const OrtValue* Value(const OrtApi& api, const OrtMemoryInfo* memory,
                        const OutsideWeight& weight);

  /*! \brief Let go of its pages; they are read again when they are looked at. */
  void Forget();

  /*! \brief Where sessions find what others of them have packed; as long as this. */
  OrtPrepackedWeightsContainer* Packed(const OrtApi& api);

 private:
  using Key = std::tuple<uint64_t, int, std::vector<int64_t>>;  // offset, type, shape

  std::string_view ContentLocked() const;

  std::mutex mutex_;  // guards everything below
  void* mapped_ = nullptr;
  size_t bytes_ = 0;
  std::map<Key, OrtHandle<OrtValue>> values_;
  OrtHandle<OrtPrepackedWeightsContainer> packed_;
};

}  // namespace hetero_tvm::runtime::npu

#endif  // HETERO_TVM_RUNTIME_NPU_WEIGHT_PART_H_
