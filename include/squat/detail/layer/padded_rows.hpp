// A caller's rows on their way into a layer whose heads are wider, and back.
#pragma once

#include <algorithm>
#include <squat/matrix.hpp>

namespace squat::detail {

/// What channels hold that a layer adds to a head. Queries have zeros there: it never shows.
enum class HeadPadding {
  zeros,  ///< a channel that has a scale of its own costs least so, and rotation spreads no more
  last,   ///< the head's last channel: it does not widen the range that a group has
};

/// A caller's `rows` [rows, heads * width] with heads of `width` channels. Where they have that
/// width already they are seen as they lie, and `rows` outlives this.
template <class Scalar>
class PaddedRows {
 public:
  PaddedRows(const MatrixView<Scalar>& rows, Index heads, Index width, HeadPadding padding)
      : wide_(rows.cols() == heads * width ? Matrix<Scalar>()
                                           : padded(rows, heads, width, padding)),
        view_(rows.cols() == heads * width ? MatrixView<Scalar>(rows) : MatrixView<Scalar>(wide_)) {
  }

  PaddedRows(PaddedRows&&) noexcept = default;

  const MatrixView<Scalar>& view() const { return view_; }

 private:
  static Matrix<Scalar> padded(const MatrixView<Scalar>& rows, Index heads, Index width,
                               HeadPadding padding) {
    const Index own = rows.cols() / heads;
    Matrix<Scalar> wide(rows.rows(), heads * width);
    for (Index row = 0; row < rows.rows(); ++row)
      for (Index head = 0; head < heads; ++head) {
        const Scalar* const from = rows.row(row).data() + head * own;
        Scalar* const to = wide.row(row).data() + head * width;
        std::copy_n(from, own, to);
        std::fill(to + own, to + width, padding == HeadPadding::zeros ? Scalar(0) : from[own - 1]);
      }
    return wide;
  }

  Matrix<Scalar> wide_;
  MatrixView<Scalar> view_;
};

/// The first `width` channels of each head of `wide` [rows, heads * any width], into
/// `rows` [rows, heads * width].
template <class Scalar, class Rows>
void narrow(const Matrix<Scalar>& wide, Index heads, Index width, Rows&& rows) {
  const Index stored = wide.cols() / heads;
  for (Index head = 0; head < heads; ++head)
    rows.middleCols(head * width, width) = wide.middleCols(head * stored, width);
}

/// Where attention writes results [rows, heads * width], for a caller whose `out`
/// [rows, heads * own width], which outlives this, may have narrower heads.
template <class Scalar>
class PaddedOut {
 public:
  PaddedOut(const MutableMatrixView<Scalar>& out, Index heads, Index width)
      : out_(out),
        heads_(heads),
        wide_(out.cols() == heads * width ? 0 : out.rows(), heads * width),
        view_(wide_.rows() == 0 ? out_ : MutableMatrixView<Scalar>(wide_)) {}

  PaddedOut(PaddedOut&&) noexcept = default;

  MutableMatrixView<Scalar>& view() { return view_; }
  /// Once results are there.
  void finish() {
    if (wide_.rows() > 0) narrow(wide_, heads_, out_.cols() / heads_, out_);
  }

 private:
  MutableMatrixView<Scalar> out_;
  Index heads_;
  Matrix<Scalar> wide_;
  MutableMatrixView<Scalar> view_;
};

}  // namespace squat::detail
