// The packed record of keys: what a block of tokens of one kv head looks like in memory.
#pragma once

#include <squat/detail/math/rotation.hpp>
#include <squat/detail/records/affine_table.hpp>
#include <squat/detail/records/code_tile.hpp>
#include <squat/detail/records/record_units.hpp>
#include <squat/detail/records/token_groups.hpp>
#include <utility>
#include <vector>

namespace squat::detail {

/// How many bits each channel of a kv head gets. Channels are quantized and stored in `order`,
/// eight at a time with codes of one width, equal widths side by side.
struct BitAllocation {
  std::vector<std::uint16_t> order;  ///< channel at each position; empty: as they are
  std::vector<std::uint8_t> bits;    ///< of positions 8 i to 8 i + 7
};

/// Widths as equal as a mean of at most `mean_bits` allows, for channels of which nothing is known.
inline BitAllocation even_bits(Index head_dim, double mean_bits) {
  const std::size_t octets = static_cast<std::size_t>(head_dim / 8);
  const std::size_t budget =
      static_cast<std::size_t>(mean_bits * static_cast<double>(octets) + 1e-6);
  BitAllocation allocation;
  for (std::size_t i = 0; i < octets; ++i)
    allocation.bits.push_back(
        static_cast<std::uint8_t>((budget + i) / octets));  // the wide ones last
  return allocation;
}

/// Keys of `tokens` = Config::token_group_size consecutive tokens of one kv head. Lanes are tokens,
/// depths are channels, in the order of the allocation:
///
///     scale[head_dim], zero[head_dim]       per channel, for all tokens of the block: AffineTable
///     padding to 16 bytes
///     for each run of n channels of equal width, for each of its Planes:
///     CodeTile<bits> tile[tokens / 16][n / 8]          token 16 a + lane, channel 8 b + depth
///     padding to 32 bytes
///
/// in the order in which attention reads them. Beside the allocation an object knows where each
/// channel's range is expected (Config::scale_bits 8), in which units all numbers are, how they are
/// rotated, and what values of the head are less: what blocks have in common is stored once.
///
/// With KeyScales::per_token the table is that of TokenGroups, scale[groups][tokens] and
/// zero[groups][tokens], a run is a group, all channels have one width, and tokens arrive one by
/// one. With Config::rotate_keys codes are those of the rotated key.
class KeyRecordLayout {
 public:
  /// Channels [first, first + count) by position, whose codes have `bits` bits.
  struct Run {
    int bits;
    Index first;
    Index count;
    Planes planes;
    Index offset[2];  ///< of the tiles of each plane, in bytes from the record's begin
  };

  /// All channels have `bits` bits.
  KeyRecordLayout(Index head_dim, int bits, const LayerSettings& settings)
      : KeyRecordLayout(
            head_dim,
            BitAllocation{{},
                          std::vector<std::uint8_t>(static_cast<std::size_t>(head_dim / 8),
                                                    static_cast<std::uint8_t>(bits))},
            settings) {}

  KeyRecordLayout(Index head_dim, BitAllocation allocation, const LayerSettings& settings)
      : head_dim_(head_dim),
        tokens_(settings.block_tokens),
        is_per_token_(settings.has_token_scales),
        is_rotated_(settings.rotates_keys),
        groups_(head_dim, settings.key_group_size, settings),
        affine_(is_per_token_ ? groups_.entries() : head_dim, settings.scale_bits, true),
        order_(std::move(allocation.order)),
        bits_(std::move(allocation.bits)) {
    require(static_cast<Index>(bits_.size()) == head_dim / 8, "allocation.bits has ", bits_.size(),
            " entries; head_dim ", head_dim, " asks for one in eight channels");
    require(order_.empty() || static_cast<Index>(order_.size()) == head_dim,
            "allocation.order has ", order_.size(), " entries; head_dim is ", head_dim);
    require(!is_per_token_ ||
                (order_.empty() && std::equal(bits_.begin() + 1, bits_.end(), bits_.begin())),
            "allocation has an order or several widths; scales per token ask for one width");
    if (settings.scale_bits == 8 && !is_per_token_)
      expected_.assign(static_cast<std::size_t>(head_dim), 0.0f);
    Index offset = code_offset();
    for (Index first = 0; first < head_dim;) {
      const int bits = bits_at(first);
      Index last = first + 8;
      while (last < head_dim && bits_at(last) == bits && !begins_group(last)) last += 8;
      Run run{bits, first, last - first, Planes::of(bits), {}};
      for (int plane = 0; plane < run.planes.count; ++plane) {
        run.offset[plane] = offset;
        offset += run.count * tokens_ * run.planes.bits[plane] / 8;
      }
      runs_.push_back(run);
      first = last;
    }
    code_bytes_ = offset - code_offset();
    bytes_ = round_up(offset, record_alignment);
  }

  Index head_dim() const { return head_dim_; }
  Index tokens() const { return tokens_; }
  Index code_offset() const { return round_up(affine_.bytes(), 16); }  ///< from a record's begin
  Index code_bytes() const { return code_bytes_; }
  Index bytes() const { return bytes_; }
  bool is_per_token() const { return is_per_token_; }
  bool is_rotated() const { return is_rotated_; }
  /// Of the keys where they are rotated, and of the values beside them.
  Rotation rotation() const { return rotation_; }
  void set_rotation(Rotation rotation) { rotation_ = rotation; }
  /// With scales per token: the channels that share one, which are the runs.
  const TokenGroups& groups() const { return groups_; }
  const AffineTable& table() const { return affine_; }
  const std::vector<Run>& runs() const { return runs_; }
  int bits_at(Index position) const { return bits_[static_cast<std::size_t>(position / 8)]; }
  bool is_ordered() const { return order_.empty(); }
  const std::vector<std::uint16_t>& order() const { return order_; }  ///< or empty
  Index channel_at(Index position) const {
    return order_.empty() ? position : order_[static_cast<std::size_t>(position)];
  }
  /// What scales, zero points and expected() count in, and those of the values beside the keys.
  const RecordUnits& units() const { return units_; }
  template <class Real>
  Real unit() const {
    return unit_of<Real>(units_.keys);
  }
  void set_units(const RecordUnits& units) {
    for (float& one : expected_)
      one = static_cast<float>(Eigen::half(one * unit_of<float>(units_.keys - units.keys)));
    units_ = units;
  }
  /// The mean of the values beside the keys [value_dim], which codes leave out; empty for none.
  const std::vector<float>& value_mean() const { return value_mean_; }
  void set_value_mean(std::vector<float> mean) { value_mean_ = std::move(mean); }
  /// Where the midpoint of the range of the channel at `position` is expected.
  float expected(Index position) const {
    return expected_.empty() ? 0.0f : expected_[static_cast<std::size_t>(position)];
  }
  const float* expected() const { return expected_.empty() ? nullptr : expected_.data(); }
  /// `midpoints` [head_dim] by channel, not in units, kept in half precision where scales have 8
  /// bits.
  void set_expected(const Eigen::VectorXd& midpoints) {
    for (std::size_t i = 0; i < expected_.size(); ++i) {
      const double midpoint = midpoints[channel_at(static_cast<Index>(i))] / unit<double>();
      expected_[i] = static_cast<float>(
          Eigen::half(static_cast<float>(std::clamp(midpoint, -65504.0, 65504.0))));
    }
  }
  /// Bytes of what attention needs beside the records and the configuration.
  Index header_bytes() const {
    const std::size_t widths = is_ordered() ? 0 : bits_.size();
    return static_cast<Index>(4 * (expected_.size() + value_mean_.size()) + 2 * order_.size() +
                              widths);
  }
  Index bookkeeping_bytes() const {
    const std::size_t widths = is_ordered() ? bits_.size() : 0;
    return Index{sizeof(*this)} + static_cast<Index>(runs_.size() * sizeof(Run) + widths);
  }

  /// The tile of `plane` of the run that holds `position`.
  std::uint8_t* tile(std::byte* record, const Run& run, int plane, Index token,
                     Index position) const {
    return reinterpret_cast<std::uint8_t*>(record) + tile_offset(run, plane, token, position);
  }
  const std::uint8_t* tile(const std::byte* record, const Run& run, int plane, Index token,
                           Index position) const {
    return reinterpret_cast<const std::uint8_t*>(record) + tile_offset(run, plane, token, position);
  }
  /// From the tile of a token to that of the token 16 later.
  static Index tile_stride(const Run& run, int plane) {
    return 2 * run.count * run.planes.bits[plane];
  }

  /// The code of `token` at `position`.
  int code(const std::byte* record, Index token, Index position) const {
    const Run& run = run_of(position);
    int code = 0;
    for (int plane = 0; plane < run.planes.count; ++plane)
      with_bits(run.planes.bits[plane], [&](auto bits) {
        const auto* codes =
            reinterpret_cast<const CodeTile<bits>*>(tile(record, run, plane, token, position));
        code |= codes->get(token % 16, position % 8) << run.planes.shift[plane];
      });
    return code;
  }
  /// The run that holds `position`.
  const Run& run_of(Index position) const {
    std::size_t i = 0;
    while (position >= runs_[i].first + runs_[i].count) ++i;
    return runs_[i];
  }

  /// With scales per channel, in units().
  template <class Real>
  Affine<Real> affine(const std::byte* record, Index position) const {
    return affine_.get<Real>(record, position, max_code<Real>(position),
                             static_cast<Real>(expected(position)));
  }
  template <class Real>
  void set_affine(std::byte* record, Index position, const Affine<Real>& affine) const {
    affine_.set(record, position, affine, max_code<Real>(position),
                static_cast<Real>(expected(position)));
  }

  /// With scales per token, in units().
  template <class Real>
  Affine<Real> affine(const std::byte* record, Index token, Index group) const {
    return affine_.get<Real>(record, groups_.entry(token, group), max_code<Real>(0), Real(0));
  }
  template <class Real>
  void set_affine(std::byte* record, Index token, Index group, const Affine<Real>& affine) const {
    affine_.set(record, groups_.entry(token, group), affine, max_code<Real>(0), Real(0));
  }

  /// Sets the code of `token` at each position, one width, to codes[position * stride].
  void set_codes(std::byte* record, Index token, const std::uint8_t* codes, Index stride) const {
    for (const Run& run : runs_)
      for (int plane = 0; plane < run.planes.count; ++plane)
        with_bits(run.planes.bits[plane], [&](auto bits) {
          constexpr int all = (1 << bits) - 1;
          for (Index p = run.first; p < run.first + run.count; ++p)
            reinterpret_cast<CodeTile<bits>*>(tile(record, run, plane, token, p))
                ->set(token % 16, p % 8, codes[p * stride] >> run.planes.shift[plane] & all);
        });
  }

  /// Dequantizes tokens [0, tokens) into out[tokens][head_dim], channels in their own order,
  /// rotated back.
  template <class Real>
  void dequantize(const std::byte* record, Index tokens, Real* out) const {
    const Real unit = this->unit<Real>();
    Real scale[max_head_dim], zero[max_head_dim];  // of each position
    for (Index p = 0; !is_per_token_ && p < head_dim_; ++p) {
      const auto a = affine<Real>(record, p);
      scale[p] = a.scale * unit;
      zero[p] = a.zero * unit;
    }
    for (Index t = 0; t < tokens; t += 16) {
      const Index count = std::min(Index{16}, tokens - t);
      Real* const rows = out + t * head_dim_;
      for (const Run& run : runs_)
        for (Index p = run.first; p < run.first + run.count; p += 8) {
          std::uint8_t codes[16][8];
          read_tile(record, run, t, p, codes);
          for (Index lane = 0; lane < count; ++lane) {
            if (is_per_token_) {
              const auto a = affine<Real>(record, t + lane, groups_.group_of(p));
              std::fill_n(scale + p, 8, a.scale * unit);
              std::fill_n(zero + p, 8, a.zero * unit);
            }
            for (Index depth = 0; depth < 8; ++depth)
              rows[lane * head_dim_ + p + depth] =
                  scale[p + depth] * static_cast<Real>(codes[lane][depth]) + zero[p + depth];
          }
        }
      for (Index lane = 0; !is_ordered() && lane < count; ++lane)
        to_channels(rows + lane * head_dim_);
    }
    for (Index t = 0; is_rotated_ && t < tokens; ++t)
      rotate_back(out + t * head_dim_, head_dim_, rotation_);
  }

 private:
  bool begins_group(Index position) const {
    return is_per_token_ && position == groups_.group_begin(groups_.group_of(position));
  }

  template <class Real>
  Real max_code(Index position) const {
    return static_cast<Real>((1 << bits_at(position)) - 1);
  }

  /// Puts numbers by position where their channels are.
  template <class Real>
  void to_channels(Real* row) const {
    Real by_position[max_head_dim];
    std::copy_n(row, head_dim_, by_position);
    for (Index p = 0; p < head_dim_; ++p) row[channel_at(p)] = by_position[p];
  }

  Index tile_offset(const Run& run, int plane, Index token, Index position) const {
    return run.offset[plane] + (token / 16 * (run.count / 8) + (position - run.first) / 8) * 16 *
                                   run.planes.bits[plane];
  }

  void read_tile(const std::byte* record, const Run& run, Index token, Index position,
                 std::uint8_t codes[16][8]) const {
    for (int plane = 0; plane < run.planes.count; ++plane)
      with_bits(run.planes.bits[plane], [&](auto bits) {
        const auto& tile = *reinterpret_cast<const CodeTile<bits>*>(
            this->tile(record, run, plane, token, position));
        if (plane == 0) return tile.unpack(codes);  // the first plane is not shifted
        std::uint8_t part[16][8];
        tile.unpack(part);
        for (Index lane = 0; lane < 16; ++lane)
          for (Index depth = 0; depth < 8; ++depth)
            codes[lane][depth] = static_cast<std::uint8_t>(
                codes[lane][depth] | part[lane][depth] << run.planes.shift[plane]);
      });
  }

  Index head_dim_;
  Index tokens_;
  bool is_per_token_;
  bool is_rotated_;
  Rotation rotation_ = Rotation::signs;
  TokenGroups groups_;
  AffineTable affine_;
  std::vector<std::uint16_t> order_;
  std::vector<std::uint8_t> bits_;
  std::vector<float> expected_;
  RecordUnits units_;
  std::vector<float> value_mean_;
  std::vector<Run> runs_;
  Index code_bytes_;
  Index bytes_;
};

}  // namespace squat::detail
